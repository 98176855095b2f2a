"""Quantized weights without the CPU kernels, on any device: they stay packed, and every use
dequantizes one layer's matrix, or on CUDA a few rows' product unpacks it in the kernel."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels.codebooks import CODEBOOKS
from headrace.quantization.bits import BitPlanes
from headrace.quantization.matrix import QuantizedMatrix

KERNEL_ROWS = 64
"""With more, a matrix that is unpacked once and multiplied by torch should be quicker."""

logger = logging.getLogger(__name__)


@cache
def load_kernel(device: torch.device) -> Callable[..., Tensor] | None:
    """Triton's product with packed weights, where it runs and agrees with torch; a warning says
    why not."""
    if device.type != "cuda" or find_spec("triton") is None:
        return None
    from headrace.quantization.triton_matmul import packed_matmul, trial

    if reason := trial(device):
        logger.warning("packed weights are unpacked for every use: the Triton kernel: %s", reason)
        return None
    return packed_matmul


@dataclass(frozen=True)
class CompressedZeroPoints:
    """Whole ones take the bits of a code, others 8."""

    planes: BitPlanes
    bits: int
    steps: int
    """Between two quants."""

    @classmethod
    def of(cls, matrix: QuantizedMatrix) -> "CompressedZeroPoints | None":
        zero_points, bits = matrix.zero_points, matrix.bits
        if zero_points is None:
            return None
        if not zero_points.is_floating_point():
            return cls(BitPlanes.pack(zero_points, bits), bits, 1)
        sixteenths = (zero_points * 16).to(torch.uint8)
        return cls(BitPlanes.pack(sixteenths, 8), 8, 16)

    def unpack(self, rows: Tensor | None) -> Tensor:
        return self.planes.unpack(rows).float() / self.steps

    @property
    def packed(self) -> tuple[Tensor, int, int]:
        """As `packed_matmul` reads them."""
        return self.planes.planes[0][2], self.bits, self.steps


class CompressedMatrix:
    """A `QuantizedMatrix` whose codes and zero points take no more bits than they have."""

    def __init__(self, matrix: QuantizedMatrix, device: torch.device) -> None:
        matrix = matrix.to(device)
        self._codes = BitPlanes.pack(matrix.codes, matrix.bits)
        self._zero_points = CompressedZeroPoints.of(matrix)
        self._rest = replace(matrix, codes=matrix.codes[:, :0].clone(), zero_points=None)
        has_wide_scales = matrix.scales.itemsize > 1  # Triton knows no E8M0
        has_one_plane = len(self._codes.planes) == 1
        is_regular = matrix.group_index is None and has_one_plane and has_wide_scales
        self._kernel = load_kernel(device) if is_regular else None
        zero_planes = self._zero_points.planes if self._zero_points else None
        parts = (self._codes, zero_planes, matrix.scales, matrix.group_index)
        self.nbytes = sum(part.nbytes for part in parts if part is not None)

    def multiply(self, x: Tensor) -> Tensor:
        """x [T, in_features] to [T, out_features]."""
        if self._kernel is None or len(x) > KERNEL_ROWS:
            return functional.linear(x, self.dequantize(x.dtype))
        rest, codebook, zeros = self._rest, CODEBOOKS.get(self._rest.element), self._zero_points
        return self._kernel(
            x,
            self._codes.planes[0][2],
            rest.scales,
            bits=rest.bits,
            zero_points=zeros.packed if zeros else None,
            codebook=None if codebook is None else codebook.to(x.device),
        )

    def dequantize(self, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """The matrix, or these rows of it."""
        rest = self._rest if rows is None else self._rest.rows(rows)
        zero_points = self._zero_points.unpack(rows) if self._zero_points else None
        codes = self._codes.unpack(rows)
        return replace(rest, codes=codes, zero_points=zero_points).dequantize(dtype)


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
        outputs = [part.multiply(x) for part in self._parts]
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        if bias is not None:
            out += bias
        return out if residual is None else residual.add_(out)

    def lookup(self, token_ids: Tensor) -> Tensor:
        (part,) = self._parts
        return part.dequantize(self._dtype, token_ids)
