"""GGUF's block formats in torch: bytes to quants, scales and minima per 32 weights.

The formats are those of the `gguf` reference package; csrc/pack.cpp does the same in C++.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from headrace.kernels.tensors import BLOCK_FORMATS, GROUP_SIZE

Groups = tuple[Tensor, Tensor, Tensor]
"""quants [N, groups, 32] whole numbers; scales and minima [N, groups] float32."""


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


def requantize(values: Tensor) -> Groups:
    """Weights [..., 32] with scales per 16, rounded once more to 8 bits."""
    scales = (values.abs().amax(-1) / 127).half().float()
    quants = torch.where(scales[..., None] > 0, values / scales[..., None], 0.0).round()
    return quants.clamp(-127, 127).to(torch.int16), scales, torch.zeros_like(scales)


def sixteens(scales: Tensor, quants: Tensor) -> Tensor:
    """Scales [..., 16] times quants [..., 8, 32], one scale for 16 quants."""
    return scales.unflatten(-1, (8, 2)).repeat_interleave(16, -1) * quants


def q2_k(data: Tensor) -> Groups:
    packed, scale, minimum = data[..., :16], halves(data[..., 80:82]), halves(data[..., 82:84])
    quants = bits(data[..., 16:80].unflatten(-1, (2, 32)), [0, 2, 4, 6], 3).flatten(-3, -2)
    offsets = (packed >> 4).float().unflatten(-1, (8, 2)).repeat_interleave(16, -1)
    scaled = sixteens((packed & 15).float(), quants) * scale[..., None]
    return requantize(scaled - offsets * minimum[..., None])


def q3_k(data: Tensor) -> Groups:
    high = bits(data[..., :32], list(range(8)), 1)
    low = bits(data[..., 32:96].unflatten(-1, (2, 32)), [0, 2, 4, 6], 3).flatten(-3, -2)
    packed = data[..., 96:108]
    four = bits(packed[..., :8], [0, 4], 15).flatten(-2)
    six = four + bits(packed[..., 8:], [0, 2, 4, 6], 3).flatten(-2) * 16
    scaled = sixteens((six - 32).float(), low + high * 4 - 4)
    return requantize(scaled * halves(data[..., 108:])[..., None])


def q6_k(data: Tensor) -> Groups:
    low = bits(data[..., :128].unflatten(-1, (2, 64)), [0, 4], 15)
    low = low.unflatten(-1, (2, 32)).flatten(-4, -2)
    high = bits(data[..., 128:192].unflatten(-1, (2, 32)), [0, 2, 4, 6], 3).flatten(-3, -2)
    scales = data[..., 192:208].contiguous().view(torch.int8).float()
    return requantize(sixteens(scales, low + high * 16 - 32) * halves(data[..., 208:])[..., None])


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
    """Rows of blocks [N, bytes] uint8 to quants [N, K], scales and minima [N, K / 32] of these
    columns, which begin and end with a group."""
    data = blocks.unflatten(1, (-1, BLOCK_FORMATS[block_format].block_bytes))
    quants, scales, minima = DECODERS[block_format](data)
    flat = quants.reshape(blocks.shape[0], -1, GROUP_SIZE)
    groups = slice(columns.start // GROUP_SIZE, columns.stop // GROUP_SIZE)
    return flat[:, groups].flatten(1), scales.flatten(1)[:, groups], minima.flatten(1)[:, groups]
