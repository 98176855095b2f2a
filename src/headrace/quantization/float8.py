"""8-bit floats (E4M3) with scales by tensor, by output or by block: tensors of several formats."""

from math import gcd

import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.tensors import read, read_scales
from headrace.weights.base import Weights

Block = tuple[int, int]
"""Outputs and inputs that share a scale."""


def is_float8(weights: Weights, name: str) -> bool:
    return weights.has(name) and weights.get(name).dtype == torch.float8_e4m3fn


def read_float8(
    weights: Weights, name: str, scale: str = "weight_scale", block: Block | None = None
) -> QuantizedMatrix:
    """The layer `name`: weight [out, in], and `scale`, which multiplies, of one of the shapes [],
    [1], [out], [out, 1] and, with `block`, [blocks of outputs, blocks of inputs].

    Raises CheckpointError naming the tensor that does not fit.
    """
    values = read(weights, f"{name}.weight", (torch.float8_e4m3fn,), (None, None))
    codes = values.view(torch.uint8)
    if bool(((codes & 127) == 127).any()):
        raise CheckpointError(f"tensor {name}.weight: expected numbers, found NaN")
    scales = _scales(weights, f"{name}.{scale}", values.shape, block)
    return QuantizedMatrix(codes=codes, scales=scales, bits=8, element="float8")


def _scales(weights: Weights, name: str, shape: torch.Size, block: Block | None) -> Tensor:
    """[out, groups]."""
    out_features, in_features = shape
    if block is None:
        stored = weights.get(name)
        rows = 1 if stored.numel() == 1 else out_features
        sizes = [rows, 1][: stored.dim()]
        return read_scales(weights, name, sizes).reshape(rows, 1).expand(out_features, 1)
    sizes = [-(-size // part) for size, part in zip(shape, block, strict=True)]
    scales = read_scales(weights, name, sizes)
    return spread_blocks(
        scales.repeat_interleave(block[0], 0)[:out_features], in_features, block[1]
    )


def spread_blocks(scales: Tensor, in_features: int, block_size: int) -> Tensor:
    """[out, ceil(in / block_size)] to the same with groups of one size: smaller ones where the
    last block is not whole."""
    group_size = gcd(in_features, block_size)
    starts = torch.arange(0, in_features, group_size)
    return scales[:, starts // block_size]
