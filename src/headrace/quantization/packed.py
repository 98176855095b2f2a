"""Weights in the CPU kernels' layout: GGUF blocks stay quantized, floats keep their width."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.kernels import (
    BLOCK_FORMATS,
    Activation,
    Kernels,
    PackedWeight,
)
from headrace.kernels.tensors import FLOAT_DTYPES, GROUP_SIZE, Scaling, WeightKind
from headrace.weights.base import RawTensor

FLOAT_KINDS: dict[torch.dtype, WeightKind] = {dtype: kind for kind, dtype in FLOAT_DTYPES.items()}


@dataclass(frozen=True)
class Permutation:
    """The order in which a weight reads its input."""

    index: Tensor
    """[columns] int32: the feature that each column reads; -1: none, the column is padding."""
    in_features: int


class PackedLinear:
    """A `LinearWeight` for the CPU kernels."""

    def __init__(
        self,
        kernels: Kernels,
        packed: PackedWeight,
        *,
        exact: bool,
        permutation: Permutation | None = None,
    ) -> None:
        self.kernels = kernels
        self.packed = packed
        self.permutation = permutation
        """How the input must be ordered for `packed`; None: as it is."""
        self.in_features = permutation.in_features if permutation else packed.in_features
        self.out_features = packed.out_features
        self.nbytes = packed.num_bytes + (permutation.index.nbytes if permutation else 0)
        self.input_dtype = torch.float32 if exact else kernels.input_dtype(packed)

    def apply(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        accumulate = residual is not None
        out = residual if residual is not None else torch.empty(len(x), self.out_features)
        self.kernels.linear(self._input(x), self.packed, out, bias=bias, accumulate=accumulate)
        return out

    def _input(self, x: Tensor) -> Activation:
        if self.input_dtype == torch.float32 and self.permutation is None:
            return x
        out = self.kernels.activation(len(x), self.packed.in_features, self.input_dtype)
        if self.permutation is not None:
            self.kernels.permute(x, self.permutation.index, out)
        else:
            assert not isinstance(out, Tensor)
            self.kernels.quantize(x, out)
        return out

    def lookup(self, token_ids: Tensor) -> Tensor:
        out = torch.empty(len(token_ids), self.packed.in_features)
        self.kernels.embedding(token_ids.int(), self.packed, out)
        if self.permutation is None:
            return out
        order = torch.argsort(self.permutation.index, stable=True)
        return out[:, order[-self.in_features :]]  # padding, -1, comes first


def pack_blocks(kernels: Kernels, parts: Sequence[RawTensor], *, exact: bool) -> PackedLinear:
    """Matrices in GGUF blocks, fused along their rows.

    They share one kind and one scaling: parts of different formats are widened to 8 bits, and get
    float16 minima.
    """
    formats = [BLOCK_FORMATS[part.type.name] for part in parts]
    is_narrow = all(form.kind == "int4" for form in formats)
    rows, columns = [len(part.data) for part in parts], {part.shape[-1] for part in parts}
    if len(columns) != 1:
        raise CheckpointError(f"matrices to be fused read {sorted(columns)} features")
    scalings: set[Scaling] = {form.scaling for form in formats}
    scaling = scalings.pop() if len(scalings) == 1 else "minimum"
    firsts = [part.first for part in parts]
    packed = kernels.empty_weight(
        "int4" if is_narrow else "int8",
        sum(rows),
        *columns,
        group_size=gcd(*columns, *firsts, 256) if scaling == "super_block" else GROUP_SIZE,
        scaling=scaling,
    )
    row = 0
    for part, count in zip(parts, rows, strict=True):
        kernels.pack_blocks(packed, row, part.type.name, part.data, first=part.first)
        row += count
    return PackedLinear(kernels, packed, exact=exact)


def pack_floats(
    kernels: Kernels, parts: Sequence[Tensor], dtype: torch.dtype | None, *, exact: bool
) -> PackedLinear:
    """Matrices of floats, fused along their rows; `dtype` None keeps that of the first. What the
    kernels do not read (float64) becomes float32 first."""
    parts = [part if part.dtype in FLOAT_KINDS else part.float() for part in parts]
    kind = FLOAT_KINDS[dtype or parts[0].dtype]
    packed = kernels.empty_weight(kind, sum(map(len, parts)), parts[0].shape[1])
    first = 0
    for part in parts:
        kernels.pack_floats(packed, first, part)
        first += len(part)
    return PackedLinear(kernels, packed, exact=exact)
