"""Weights in the CPU kernels' layout: GGUF blocks stay quantized, floats keep their width."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from headrace.kernels import (
    BLOCK_FORMATS,
    Activation,
    Kernels,
    PackedWeight,
    ops,
)
from headrace.kernels.tensors import FLOAT_DTYPES, WeightKind
from headrace.weights.base import RawTensor

FLOAT_KINDS: dict[torch.dtype, WeightKind] = {dtype: kind for kind, dtype in FLOAT_DTYPES.items()}


@dataclass(frozen=True)
class Permutation:
    """The order in which a weight reads its input."""

    index: Tensor
    """[columns] int32: the feature that each column reads; -1: none, the column is padding."""
    in_features: int


class PackedLinear:
    """A `LinearWeight` for the CPU kernels: one packed weight, or several one below the other where
    layers that share an input have layouts of their own."""

    def __init__(
        self,
        kernels: Kernels,
        parts: Sequence[PackedWeight],
        *,
        exact: bool,
        permutation: Permutation | None = None,
    ) -> None:
        self.kernels = kernels
        self.parts = parts
        self.permutation = permutation
        """How the input must be ordered for the parts; None: as it is."""
        self.packed_in_features = parts[0].in_features
        self.in_features = permutation.in_features if permutation else self.packed_in_features
        self.out_features = sum(part.out_features for part in parts)
        self.nbytes = sum(part.num_bytes for part in parts)
        self.nbytes += permutation.index.nbytes if permutation else 0
        self.is_exact = exact
        self.input_dtype = torch.float32 if exact else _input_dtype(kernels, parts)

    @property
    def packed(self) -> PackedWeight:
        """The only part. Raises ValueError if there are several."""
        (part,) = self.parts
        return part

    def apply(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        out = residual if residual is not None else torch.empty(len(x), self.out_features)
        self.multiply(self._input(x), out, bias, accumulate=residual is not None)
        return out

    def multiply(
        self,
        x: Activation,
        out: Tensor,
        bias: Tensor | None,
        *,
        accumulate: bool,
        rows: Tensor | None = None,
    ) -> None:
        """x in `input_dtype` and in the parts' order; the rest as `ops.Linear`."""
        first = 0
        for part in self.parts:
            columns = slice(first, first + part.out_features)
            own_bias = None if bias is None else bias[columns]
            self.kernels.run(
                ops.Linear(
                    x, part, out[:, columns], bias=own_bias, accumulate=accumulate, rows=rows
                )
            )
            first = columns.stop

    def _input(self, x: Tensor) -> Activation:
        if self.input_dtype == torch.float32 and self.permutation is None:
            return x
        out = self.kernels.activation(len(x), self.packed_in_features, self.input_dtype)
        if self.permutation is not None:
            self.kernels.run(ops.Permute(x, self.permutation.index, out))
        else:
            assert not isinstance(out, Tensor)
            self.kernels.run(ops.Quantize(x, out))
        return out

    def lookup(self, token_ids: Tensor) -> Tensor:
        out = torch.empty(len(token_ids), self.packed.in_features)
        self.kernels.run(ops.Embedding(token_ids.int(), self.packed, out))
        if self.permutation is None:
            return out
        order = torch.argsort(self.permutation.index, stable=True)
        return out[:, order[-self.in_features :]]  # padding, -1, comes first


def _input_dtype(kernels: Kernels, parts: Sequence[PackedWeight]) -> torch.dtype:
    """The narrowest that all parts read."""
    common = set.intersection(*(set(kernels.input_dtypes(part)) for part in parts))
    return next(dtype for dtype in kernels.input_dtypes(parts[0]) if dtype in common)


def stack(linears: Sequence[PackedLinear]) -> PackedLinear | None:
    """Weights that read the same input as one; None if they read it in different orders."""
    first = linears[0]
    if not all(_are_equal(linear.permutation, first.permutation) for linear in linears):
        return None
    parts = [part for linear in linears for part in linear.parts]
    return PackedLinear(first.kernels, parts, exact=first.is_exact, permutation=first.permutation)


def _are_equal(first: Permutation | None, second: Permutation | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first.index, second.index)


def pack_blocks(kernels: Kernels, parts: Sequence[RawTensor], *, exact: bool) -> PackedLinear:
    """Matrices in GGUF blocks of one kind and scaling, fused along their rows."""
    form = BLOCK_FORMATS[parts[0].type.name]
    columns, firsts = parts[0].shape[-1], [part.first for part in parts]
    packed = kernels.empty_weight(
        form.kind,
        sum(len(part.data) for part in parts),
        columns,
        group_size=gcd(columns, *firsts, form.block_weights),
        scaling=form.scaling,
    )
    row = 0
    for part in parts:
        kernels.pack_blocks(packed, row, part.type.name, part.data, first=part.first)
        row += len(part.data)
    return PackedLinear(kernels, [packed], exact=exact)


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
    return PackedLinear(kernels, [kernels.compressed(packed)], exact=exact)
