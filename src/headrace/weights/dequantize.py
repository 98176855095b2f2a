"""GGML block formats to float32, by the block layouts of ggml-common.h. Knows no file, no model.

Every function takes blocks [n, bytes per block] uint8 and returns [n, values per block] float32.
In the layouts below q, h and s are packed quants, high bits and scales; d and m are float16.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from headrace.checkpoint.ggml import GGMLType


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 at byte `start` of each block, as float32 [n, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """[..., k] bytes to [..., 2k]: all low halves, then all high halves."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


def _fields(packed: Tensor, width: int) -> Tensor:
    """[n, k] bytes to [n, 8 / width, k]: fields of `width` bits, lowest first."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8).view(1, -1, 1)
    return (packed.unsqueeze(1) >> shifts) & ((1 << width) - 1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """[n, 4] bytes to [n, 32]: bit i of the little-endian word, as 0 or 16."""
    return _fields(packed, 1).transpose(1, 2).reshape(-1, 32) << 4


def _q4_0(blocks: Tensor) -> Tensor:
    """d, 16 q."""
    return (_nibbles(blocks[:, 2:]).float() - 8) * _half(blocks, 0)


def _q4_1(blocks: Tensor) -> Tensor:
    """d, m, 16 q."""
    return torch.addcmul(_half(blocks, 2), _nibbles(blocks[:, 4:]).float(), _half(blocks, 0))


def _q5_0(blocks: Tensor) -> Tensor:
    """d, 4 h, 16 q."""
    quants = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return (quants.float() - 16) * _half(blocks, 0)


def _q5_1(blocks: Tensor) -> Tensor:
    """d, m, 4 h, 16 q."""
    quants = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return torch.addcmul(_half(blocks, 2), quants.float(), _half(blocks, 0))


def _q8_0(blocks: Tensor) -> Tensor:
    """d, 32 signed q."""
    return blocks[:, 2:].view(torch.int8).float() * _half(blocks, 0)


def _scaled(quants: Tensor, scales: Tensor, minima: Tensor | None = None) -> Tensor:
    """[n, 256] quants in as many groups as there are scales [n, g]."""
    groups = quants.view(len(quants), scales.shape[1], -1).float() * scales.unsqueeze(-1)
    return (groups if minima is None else groups - minima.unsqueeze(-1)).view(len(quants), 256)


def _q2_k(blocks: Tensor) -> Tensor:
    """16 s (scale in the low half, minimum in the high), 64 q of 2 bits, d, m."""
    scales, minima = blocks[:, :16] & 15, blocks[:, :16] >> 4
    quants = torch.cat([_fields(half, 2).flatten(1) for half in blocks[:, 16:80].split(32, 1)], 1)
    return _scaled(quants, scales * _half(blocks, 80), minima * _half(blocks, 82))


def _q3_k(blocks: Tensor) -> Tensor:
    """32 h (a clear bit subtracts 4), 64 q of 2 bits, 12 s (16 of 6 bits, biased by 32), d."""
    low = torch.cat([_fields(half, 2).flatten(1) for half in blocks[:, 32:96].split(32, 1)], 1)
    quants = (low | (_fields(blocks[:, :32], 1).flatten(1) << 2)).to(torch.int8) - 4
    scales = _nibbles(blocks[:, 96:104]) | (_fields(blocks[:, 104:108], 2).flatten(1) << 4)
    return _scaled(quants, (scales.to(torch.int8) - 32) * _half(blocks, 108))


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Q4_K's and Q5_K's 12 bytes to 8 scales and 8 minima of 6 bits each."""
    scales, minima, rest = packed.split(4, dim=1)
    high_scales = (rest & 15) | ((scales >> 6) << 4)
    high_minima = (rest >> 4) | ((minima >> 6) << 4)
    return torch.cat((scales & 63, high_scales), 1), torch.cat((minima & 63, high_minima), 1)


def _q4_k(blocks: Tensor) -> Tensor:
    """d, m, 12 s, 128 q."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    quants = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).flatten(1)
    return _scaled(quants, scales * _half(blocks, 0), minima * _half(blocks, 2))


def _q5_k(blocks: Tensor) -> Tensor:
    """d, m, 12 s, 32 h, 128 q."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).flatten(1)
    quants = low | (_fields(blocks[:, 16:48], 1).flatten(1) << 4)
    return _scaled(quants, scales * _half(blocks, 0), minima * _half(blocks, 2))


def _q6_k(blocks: Tensor) -> Tensor:
    """128 q of 4 bits, 64 h of 2 bits, 16 signed s, d; values biased by 32."""
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).flatten(1)
    high = torch.cat([_fields(half, 2).flatten(1) for half in blocks[:, 128:192].split(32, 1)], 1)
    quants = (low | (high << 4)).to(torch.int8) - 32
    scales = blocks[:, 192:208].contiguous().view(torch.int8)
    return _scaled(quants, scales * _half(blocks, 208))


UNPACK: dict[GGMLType, Callable[[Tensor], Tensor]] = {
    GGMLType.Q4_0: _q4_0,
    GGMLType.Q4_1: _q4_1,
    GGMLType.Q5_0: _q5_0,
    GGMLType.Q5_1: _q5_1,
    GGMLType.Q8_0: _q8_0,
    GGMLType.Q2_K: _q2_k,
    GGMLType.Q3_K: _q3_k,
    GGMLType.Q4_K: _q4_k,
    GGMLType.Q5_K: _q5_k,
    GGMLType.Q6_K: _q6_k,
}
"""The types that can be read."""

CHUNK_VALUES = 1 << 17
"""Values unpacked at once, so that the steps in between stay in the processor's cache."""


def dequantize(type: GGMLType, raw: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Raw rows [rows, bytes per row] uint8, of a type in UNPACK, to [rows, columns] of `dtype`."""
    blocks = raw.reshape(-1, type.block_bytes)
    values = torch.empty(len(blocks), type.block_size, dtype=dtype)
    step = CHUNK_VALUES // type.block_size
    for start in range(0, len(blocks), step):
        values[start : start + step] = UNPACK[type](blocks[start : start + step])
    return values.view(len(raw), -1)
