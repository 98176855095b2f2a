"""GGUF's block formats in torch: bytes to quants, scales and minima per 32 or 16 weights.

The formats are those of the `gguf` reference package; csrc/pack.cpp does the same in C++.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from headrace.kernels.tensors import BLOCK_FORMATS

Groups = tuple[Tensor, Tensor, Tensor]
"""quants whole numbers, of formats without minimum around zero; scales and minima float32. Each
[N, any...], in the order of the weights."""


def halves(data: Tensor) -> Tensor:
    """Bytes [..., 2 n] as float16 numbers [..., n], widened."""
    return data.contiguous().view(torch.float16).float()


def bits(data: Tensor, shifts: list[int], mask: int) -> Tensor:
    """Fields of each byte: data [..., n] to [..., len(shifts), n] int16."""
    shifted = data[..., None, :] >> torch.tensor(shifts, dtype=torch.uint8)[:, None]
    return (shifted & mask).to(torch.int16)


def legacy(data: Tensor, *, has_minimum: bool, fifth: bool, offset: int) -> Groups:
    """Q4_0, Q4_1, Q5_0, Q5_1: data [N, groups, bytes]."""
    scales = halves(data[..., :2])[..., 0]
    start = 4 if has_minimum else 2
    minima = halves(data[..., 2:4])[..., 0] if has_minimum else torch.zeros_like(scales)
    quants = bits(data[..., -16:], [0, 4], 15).flatten(-2)
    if fifth:
        high = bits(data[..., start : start + 4], list(range(8)), 1)
        quants = quants + high.transpose(-1, -2).flatten(-2) * 16
    return quants - offset, scales, minima


def q8_0(data: Tensor) -> Groups:
    scales = halves(data[..., :2])[..., 0]
    return data[..., 2:].view(torch.int8).to(torch.int16), scales, torch.zeros_like(scales)


def k_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The eight 6-bit scales and minima of Q4_K and Q5_K, from 12 bytes."""
    a, b, c = packed.split(4, -1)
    scales = torch.cat([a & 63, (c & 15) | (a >> 6 << 4)], -1)
    minima = torch.cat([b & 63, (c >> 4) | (b >> 6 << 4)], -1)
    return scales.float(), minima.float()


def q4_k(data: Tensor, *, fifth: bool = False) -> Groups:
    scales, minima = k_scales(data[..., 4:16])
    low = bits(data[..., -128:].unflatten(-1, (4, 32)), [0, 4], 15).flatten(-3, -2)
    if fifth:
        low = low + bits(data[..., 16:48], list(range(8)), 1) * 16
    return low, scales * halves(data[..., :2]), -minima * halves(data[..., 2:4])


def q2_k(data: Tensor) -> Groups:
    packed, scale, minimum = data[..., :16], halves(data[..., 80:82]), halves(data[..., 82:84])
    quants = bits(data[..., 16:80].unflatten(-1, (2, 32)), [0, 2, 4, 6], 3).flatten(-3, -2)
    return quants, (packed & 15) * scale, (packed >> 4) * -minimum


def q3_k(data: Tensor) -> Groups:
    high = bits(data[..., :32], list(range(8)), 1)
    low = bits(data[..., 32:96].unflatten(-1, (2, 32)), [0, 2, 4, 6], 3).flatten(-3, -2)
    packed = data[..., 96:108]
    four = bits(packed[..., :8], [0, 4], 15).flatten(-2)
    six = four + bits(packed[..., 8:], [0, 2, 4, 6], 3).flatten(-2) * 16
    scales = (six - 32) * halves(data[..., 108:])
    return low + high * 4 - 4, scales, torch.zeros_like(scales)


def q6_k(data: Tensor) -> Groups:
    low = bits(data[..., :128].unflatten(-1, (2, 64)), [0, 4], 15)
    low = low.unflatten(-1, (2, 32)).flatten(-4, -2)
    high = bits(data[..., 128:192].unflatten(-1, (2, 32)), [0, 2, 4, 6], 3).flatten(-3, -2)
    scales = data[..., 192:208].contiguous().view(torch.int8) * halves(data[..., 208:])
    return low + high * 16 - 32, scales, torch.zeros_like(scales)


DECODERS: dict[str, Callable[[Tensor], Groups]] = {
    "Q4_0": lambda data: legacy(data, has_minimum=False, fifth=False, offset=8),
    "Q4_1": lambda data: legacy(data, has_minimum=True, fifth=False, offset=0),
    "Q5_0": lambda data: legacy(data, has_minimum=False, fifth=True, offset=16),
    "Q5_1": lambda data: legacy(data, has_minimum=True, fifth=True, offset=0),
    "Q8_0": q8_0,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": lambda data: q4_k(data, fifth=True),
    "Q6_K": q6_k,
}


def decode(block_format: str, blocks: Tensor, columns: slice) -> Groups:
    """Rows of blocks [N, bytes] uint8 to quants [N, K], scales and minima [N, K / 32], or
    [N, K / 16] where 16 share a scale, of these columns: whole groups of 32."""
    data = blocks.unflatten(1, (-1, BLOCK_FORMATS[block_format].block_bytes))
    quants, scales, minima = (
        part.reshape(len(blocks), -1) for part in DECODERS[block_format](data)
    )
    size = quants.shape[1] // scales.shape[1]
    groups = slice(columns.start // size, columns.stop // size)
    return quants[:, columns], scales[:, groups], minima[:, groups]
