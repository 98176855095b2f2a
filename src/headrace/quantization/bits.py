"""Codes of a few bits to bytes and back."""

from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor
from torch.nn import functional


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """A stream of codes, lowest bits first, in 32-bit words along dimension 0.

    words [W, n] int32 to [W * 32 / bits, n] uint8; W * 32 must be a multiple of `bits`. Codes of 3
    bits may span two words.
    """
    per_period = lcm(bits, 32) // bits
    periods = words.unflatten(0, (-1, per_period * bits // 32))
    codes = torch.empty(len(periods), per_period, words.shape[1], dtype=torch.uint8)
    for i in range(per_period):
        word, shift = divmod(i * bits, 32)
        code = periods[:, word] >> shift
        if shift + bits > 32:  # the shift copies the sign: keep its place free for the next word
            low = (1 << (32 - shift)) - 1
            code = (code & low) | (periods[:, word + 1] << (32 - shift))
        codes[:, i] = code & ((1 << bits) - 1)
    return codes.flatten(0, 1)


def pack_words(codes: Tensor, bits: int) -> Tensor:
    """The other way round, for bits that divide 32: [c, n] to [c * bits / 32, n] int32."""
    fields = codes.int().unflatten(0, (-1, 32 // bits))
    shifts = torch.arange(0, 32, bits, dtype=torch.int32).view(-1, 1)
    return (fields << shifts).sum(1, dtype=torch.int32)


@dataclass(frozen=True)
class BitPlanes:
    """Codes [rows, columns] of 1 to 8 bits, held in that many bits each.

    A plane has the width of one binary digit of `bits`: 3 bits are a plane of 2 and one of 1.
    """

    planes: tuple[tuple[int, int, Tensor], ...]
    """First bit, width, and [rows, ceil(columns * width / 8)] uint8, lowest bits first."""
    columns: int

    @classmethod
    def pack(cls, codes: Tensor, bits: int) -> "BitPlanes":
        planes, first = [], 0
        for width in (8, 4, 2, 1):
            if bits & width:
                planes.append((first, width, _pack(codes >> first, width)))
                first += width
        return cls(tuple(planes), codes.shape[1])

    def unpack(self, rows: Tensor | None = None) -> Tensor:
        """[rows, columns] uint8, or only these rows."""
        codes: Tensor | None = None
        for first, width, plane in self.planes:
            part = _unpack(plane if rows is None else plane[rows], width)[:, : self.columns]
            codes = part << first if codes is None else codes | (part << first)
        assert codes is not None
        return codes

    @property
    def nbytes(self) -> int:
        return sum(plane.nbytes for _, _, plane in self.planes)


def _shifts(width: int, like: Tensor) -> Tensor:
    return torch.arange(0, 8, width, dtype=torch.uint8, device=like.device)


def _pack(codes: Tensor, width: int) -> Tensor:
    per_byte = 8 // width
    padded = functional.pad(codes & ((1 << width) - 1), (0, -codes.shape[1] % per_byte))
    fields = padded.unflatten(1, (-1, per_byte)) << _shifts(width, codes)
    return fields.sum(-1, dtype=torch.uint8)


def _unpack(plane: Tensor, width: int) -> Tensor:
    fields = plane.unsqueeze(-1) >> _shifts(width, plane)
    return (fields & ((1 << width) - 1)).flatten(1)
