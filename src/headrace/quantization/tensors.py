"""Tensors that a scheme asks for, checked against what the config promises."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.weights.base import Weights

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def read(
    weights: Weights, name: str, dtypes: Sequence[torch.dtype], shape: Sequence[int | None]
) -> Tensor:
    """The tensor. None in `shape` admits any positive size.

    Raises CheckpointError naming the tensor, what was expected and what was found.
    """
    tensor = weights.get(name)
    sizes_fit = tensor.dim() == len(shape) and all(
        size > 0 and wanted in (None, size)
        for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not sizes_fit or tensor.dtype not in dtypes:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise CheckpointError(
            f"tensor {name}: expected [{sizes}] {' or '.join(map(_name, dtypes))}, "
            f"found {list(tensor.shape)} {_name(tensor.dtype)}"
        )
    return tensor


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def read_scales(weights: Weights, name: str, shape: Sequence[int | None]) -> Tensor:
    """Finite floats. Raises CheckpointError like `read`."""
    scales = read(weights, name, FLOATS, shape)
    if not bool(scales.isfinite().all()):
        raise CheckpointError(f"tensor {name}: expected finite scales, found infinity or NaN")
    return scales


def read_group_index(weights: Weights, name: str, in_features: int, num_groups: int) -> Tensor:
    """[in_features] int32: the group of each column. Raises CheckpointError like `read`."""
    index = read(weights, name, (torch.int32, torch.int64), (in_features,)).int()
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= num_groups:
        raise CheckpointError(
            f"tensor {name}: expected groups 0 to {num_groups - 1}, found {low} to {high}"
        )
    return index


def count_groups(name: str, in_features: int, group_size: int) -> int:
    """How many groups a row has; `group_size` -1 means one. Raises CheckpointError naming `name`
    if they do not divide it."""
    if group_size == -1:
        return 1
    if not group_size or in_features % group_size:
        raise CheckpointError(
            f"tensor {name}: expected in_features in multiples of group_size {group_size}, "
            f"found {in_features}"
        )
    return in_features // group_size
