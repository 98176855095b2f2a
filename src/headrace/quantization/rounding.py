"""Float matrices to quantized ones, by rounding to nearest: no data is needed."""

from math import gcd

import torch
from torch import Tensor

from headrace.kernels.codebooks import CODEBOOKS
from headrace.quantization.matrix import Element, QuantizedMatrix

LARGEST_E4M3 = 448.0


def round_integers(matrix: Tensor, bits: int, group_size: int) -> QuantizedMatrix:
    """Integers of `bits` bits without zero point; `group_size` -1 means one scale per output."""
    groups = _grouped(matrix, group_size)
    middle = 2 ** (bits - 1)
    scales = (groups.abs().amax(-1) / (middle - 1)).half()
    codes = (groups / _divisor(scales)).round_().clamp_(1 - middle, middle - 1).add_(middle)
    return QuantizedMatrix(codes=codes.to(torch.uint8).flatten(1), scales=scales, bits=bits)


def round_between(matrix: Tensor, bits: int, group_size: int) -> QuantizedMatrix:
    """Integers of `bits` bits that reach from each group's least to its largest number, or to zero.
    Zero points are in sixteenths, which the kernels' 8 bits hold for codes of 4."""
    groups = _grouped(matrix, group_size)
    top = 2**bits - 1
    low, high = groups.amin(-1).clamp_(max=0), groups.amax(-1).clamp_(min=0)
    scales = ((high - low) / top).half()
    divisor = _divisor(scales)
    zero_points = (-16 * low / divisor.squeeze(-1)).round_().clamp_(0, 16 * top) / 16
    codes = (groups / divisor + zero_points.unsqueeze(-1)).round_().clamp_(0, top)
    return QuantizedMatrix(
        codes=codes.to(torch.uint8).flatten(1),
        scales=scales,
        bits=bits,
        zero_points=zero_points.half(),
    )


def round_codebook(matrix: Tensor, element: Element, group_size: int) -> QuantizedMatrix:
    """The nearest of a 4-bit codebook's numbers, times each group's largest magnitude."""
    groups = _grouped(matrix, group_size)
    scales = groups.abs().amax(-1)
    numbers, order = CODEBOOKS[element].sort()
    between = (numbers[1:] + numbers[:-1]) / 2
    codes = order[torch.bucketize(groups / _divisor(scales), between, out_int32=True)]
    return QuantizedMatrix(
        codes=codes.to(torch.uint8).flatten(1), scales=scales, bits=4, element=element
    )


def round_float8(matrix: Tensor) -> QuantizedMatrix:
    """E4M3 with one scale per output."""
    wide = matrix.float()
    scales = wide.abs().amax(1, keepdim=True) / LARGEST_E4M3
    codes = (wide / _divisor(scales)[:, 0]).to(torch.float8_e4m3fn).view(torch.uint8)
    return QuantizedMatrix(codes=codes, scales=scales, bits=8, element="float8")


def _grouped(matrix: Tensor, group_size: int) -> Tensor:
    """[out, groups, group_size] float32; smaller groups where they do not divide the inputs."""
    columns = matrix.shape[1]
    size = columns if group_size == -1 else gcd(columns, group_size)
    return matrix.float().unflatten(1, (-1, size))


def _divisor(scales: Tensor) -> Tensor:
    """Scales to divide [out, groups, group_size] by; 1 for groups of zeros."""
    wide = scales.float()
    return torch.where(wide > 0, wide, 1.0).unsqueeze(-1)
