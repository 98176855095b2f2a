"""Quantized weights in plain torch, on any device: they stay packed, and every use dequantizes one
layer's matrix."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from headrace.quantization.bits import BitPlanes
from headrace.quantization.matrix import QuantizedMatrix


class CompressedMatrix:
    """A `QuantizedMatrix` whose codes take no more bits than they have."""

    def __init__(self, matrix: QuantizedMatrix, device: torch.device) -> None:
        matrix = matrix.to(device)
        self._codes = BitPlanes.pack(matrix.codes, matrix.bits)
        self._rest = replace(matrix, codes=matrix.codes[:, :0].clone())
        parts = (matrix.scales, matrix.zero_points, matrix.group_index)
        self.nbytes = self._codes.nbytes + sum(part.nbytes for part in parts if part is not None)

    def dequantize(self, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """The matrix, or these rows of it."""
        rest = self._rest if rows is None else self._rest.rows(rows)
        return replace(rest, codes=self._codes.unpack(rows)).dequantize(dtype)


class CompressedLinear:
    """A `LinearWeight` of one or several matrices, fused along their outputs."""

    def __init__(
        self, matrices: Sequence[QuantizedMatrix], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.out_features = sum(matrix.shape[0] for matrix in matrices)
        self.in_features = matrices[0].shape[1]
        self._dtype = dtype
        self._parts = [CompressedMatrix(matrix, device) for matrix in matrices]
        self.nbytes = sum(part.nbytes for part in self._parts)

    def apply(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        outputs = [functional.linear(x, part.dequantize(x.dtype)) for part in self._parts]
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        if bias is not None:
            out += bias
        return out if residual is None else residual.add_(out)

    def lookup(self, token_ids: Tensor) -> Tensor:
        (part,) = self._parts
        return part.dequantize(self._dtype, token_ids)
