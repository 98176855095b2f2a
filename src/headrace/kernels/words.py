"""What the compiled kernels read of an op: numbers, addresses, None. Mirrors csrc/arguments.h."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.kernels.ops import Op
from headrace.kernels.ranks import RankMemory, Relay
from headrace.kernels.routing import SCORES, RoutingRule
from headrace.kernels.tensors import (
    GATE_KINDS,
    NORM_KINDS,
    SCALINGS,
    WEIGHT_KINDS,
    PackedWeight,
    QuantizedActivation,
    SplitActivation,
)

Word = int | float | None

DTYPES = {
    dtype: number
    for number, dtype in enumerate(
        (torch.float32, torch.int8, torch.bfloat16, torch.float16, torch.int32, torch.int64,
         torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)
    )
}  # fmt: skip
"""Numbered as `Format` in csrc/layout.h and `CacheType` in csrc/cache.h have them."""
KINDS: dict[str, int] = {
    kind: number
    for kinds in (WEIGHT_KINDS, SCALINGS, GATE_KINDS, NORM_KINDS, SCORES)
    for number, kind in enumerate(kinds)
}


def words(op: Op) -> list[Word]:
    """Those of its fields, one after another."""
    return _joined(_fields(type(op))(op))


def weight_words(weight: PackedWeight) -> Sequence[Word]:
    return (
        weight.storage[0].data_ptr(),
        weight.out_features,
        weight.in_features,
        KINDS[weight.kind],
        weight.group_size,
        KINDS[weight.scaling],
    )


def _joined(values: Iterable[object]) -> list[Word]:
    return [word for value in values for word in _words(value)]


def _words(value: object) -> Sequence[Word]:
    """A structure's words are those of its fields, a sequence's its length and those of its items,
    a kind's is its number."""
    match value:
        case Tensor():
            return _tensor_words(value)
        case None | int() | float():
            return (value,)
        case str():
            return (KINDS[value],)
        case PackedWeight():
            return weight_words(value)
        case QuantizedActivation():
            address, width = value.storage.data_ptr(), value.features
            return address, value.rows, width, width, DTYPES[value.dtype]
        case np.ndarray():
            return (value.ctypes.data,)
        case list() | tuple():
            return _joined((len(value), *value))
        case _:
            return _joined(_parts(value))


def _tensor_words(tensor: Tensor) -> Sequence[Word]:
    """Address, rows, columns, the stride of rows, dtype. A vector is a row that repeats; of more
    dimensions the first two are told."""
    address, shape, dtype = tensor.data_ptr(), tensor.shape, DTYPES[tensor.dtype]
    if len(shape) == 1:
        return address, 1, shape[0], 0, dtype
    return address, shape[0], shape[1], tensor.stride(0), dtype


def _parts(value: Any) -> tuple[object, ...]:
    match value:
        case SplitActivation():  # an activation in int32 is the boundary of two others
            return value.boundary, value.first, value.rest
        case RankMemory():
            return value.rank, value.size, value.slot_bytes, value.storage, value.relay
        case Relay():
            return value.here.start, value.here.stop, value.address
        case RoutingRule():  # or a subclass, which says more
            return _fields(RoutingRule)(value)
        case _:
            return _fields(value.__class__)(value)


@cache
def _fields(structure: type) -> Callable[[object], tuple[object, ...]]:
    return attrgetter(*(field.name for field in fields(structure)))
