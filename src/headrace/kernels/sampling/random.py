"""Counter-based random numbers: a number is a function of its key, never of what ran before.

The key of a draw is (request seed, position of the new token, candidate token id), so a choice does
not depend on batch composition, row order, chunking, preemption or restart (Salmon et al. 2011,
"Parallel Random Numbers: As Easy as 1, 2, 3").
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

GOLDEN_RATIO_64 = np.uint64(0x9E3779B97F4A7C15)
GOLDEN_RATIO_32 = -0x61C88647  # 0x9E3779B9 as int32
HIGHEST_BELOW_ONE = 1.0 - 2.0**-24


@dataclass(frozen=True, slots=True)
class DrawKeys:
    """The 64-bit keys of R draws, as two [R, 1] int32 halves on the sampling device."""

    low: Tensor
    high: Tensor

    def select(self, rows: Tensor | slice) -> "DrawKeys":
        return DrawKeys(self.low[rows], self.high[rows])


def _splitmix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014): a bijection that mixes all 64 bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw_keys(
    seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64], device: torch.device
) -> DrawKeys:
    """Mix each request's seed [R] with the position [R] that its new token will have."""
    mixed = _splitmix(_splitmix(seeds + GOLDEN_RATIO_64) + positions.astype(np.uint64))
    halves = torch.from_numpy(mixed.view(np.int32).reshape(-1, 2)).to(device)
    return DrawKeys(halves[:, :1], halves[:, 1:])


def exponentials(keys: DrawKeys, token_ids: Tensor) -> Tensor:
    """Exponentially distributed float32 [R, K] for candidates `token_ids` ([K] or [R, K] int32).

    A 32-bit multiply-xorshift hash of the id, keyed twice on the way; integer operations wrap.
    Its 31 low bits are a uniform number u, and -log(1 - u) keeps full precision for the small
    values that win a race.
    """
    x = token_ids * GOLDEN_RATIO_32 ^ keys.low
    _xorshift_(x, 16)
    x.mul_(0x7FEB352D).add_(keys.high)
    _xorshift_(x, 15)
    x.mul_(-0x7B935975)  # 0x846CA68B as int32
    # The sign goes, so the copies of it that an arithmetic shift brings in do no harm here.
    x.bitwise_xor_(x >> 16).bitwise_and_(0x7FFFFFFF)
    uniform = x.to(torch.float32).add_(0.5).mul_(2.0**-31 * HIGHEST_BELOW_ONE)
    return uniform.neg_().log1p_().neg_()


def _xorshift_(x: Tensor, bits: int) -> None:
    """x ^= x >> bits, in place, with zeros shifted in."""
    x.bitwise_xor_((x >> bits).bitwise_and_((1 << (32 - bits)) - 1))
