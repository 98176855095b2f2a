"""What a step costs as a function of its tokens: measured while serving, never assumed."""

from math import log2
from typing import Final

import numpy as np

NUM_EXACT: Final = 64
"""Numbers of tokens that have a bucket of their own, since kernels work in tiles and the cost has
steps; from there on 4 buckets per doubling."""
BUCKETS_PER_DOUBLING: Final = 4
NUM_FIRST: Final = 3
"""Measurements of a bucket of which the smallest counts: one alone may have been interrupted."""
RATE: Final = 0.05
LOAD_RATE: Final = 0.1
"""What a measurement counts in its bucket and in the load, as an exponent."""
MAX_SURPRISE: Final = 1.5
"""A measurement counts as at most this times what was expected, or its inverse."""
MAX_AGE: Final = 2000
"""Steps after which a bucket without new measurements is forgotten, so that it gets another try."""
REFRESH: Final = 8
"""Steps between looks at the buckets."""
MAX_TOKENS: Final = 512


class _Bucket:
    def __init__(self, num_tokens: int, duration: float) -> None:
        self.num_tokens = num_tokens
        self.duration = duration
        self.count = 0
        self.last_step = 0

    def observe(self, duration: float, surprise: float) -> None:
        self.count += 1
        if self.count <= NUM_FIRST:
            self.duration = min(self.duration, duration)
        else:
            self.duration *= surprise**RATE


class StepCost:
    """Fading geometric means by bucket, joined by straight lines, times a load.

    The load is what the machine's other work and longer contexts make of all steps alike: it
    follows fast, so that the curve's shape, on which decisions rest, can be learnt slowly.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._num_steps = 0
        self.load = 1.0
        self.curve: list[float] = []
        """Seconds by number of tokens at a load of 1, up to MAX_TOKENS; never falls."""

    @property
    def is_known(self) -> bool:
        """Two points make a line."""
        return bool(self.curve)

    def observe(self, num_tokens: int, duration: float) -> None:
        """One step of `num_tokens` took so many seconds."""
        self._num_steps += 1
        key = num_tokens
        if num_tokens > NUM_EXACT:
            key = NUM_EXACT + int(BUCKETS_PER_DOUBLING * log2(num_tokens / NUM_EXACT))
        duration /= self.load
        if (bucket := self._buckets.get(key)) is None:
            bucket = self._buckets[key] = _Bucket(num_tokens, duration)
        surprise = duration / bucket.duration
        surprise = min(MAX_SURPRISE, max(1 / MAX_SURPRISE, surprise))
        self.load *= surprise**LOAD_RATE
        bucket.observe(duration, surprise)
        bucket.last_step = self._num_steps
        if self._num_steps % REFRESH == 0 or not self.curve:
            self._refresh()

    def _refresh(self) -> None:
        oldest = self._num_steps - MAX_AGE
        self._buckets = {k: b for k, b in self._buckets.items() if b.last_step >= oldest}
        if len(self._buckets) > 1:
            points = sorted((b.num_tokens, b.duration) for b in self._buckets.values())
            self.curve = _interpolate(*zip(*points, strict=True))

    def __getitem__(self, num_tokens: int) -> float:
        """Seconds; more tokens never take less."""
        return self.load * self.curve[min(num_tokens, MAX_TOKENS)]


def _interpolate(num_tokens: tuple[int, ...], durations: tuple[float, ...]) -> list[float]:
    """Durations of 0 to MAX_TOKENS tokens, never falling: before the first point and behind the
    last on the lines of the nearest two, but in proportion at least before the first."""
    x, y = np.array(num_tokens, float), np.array(durations)
    slopes = np.diff(y) / np.diff(x)
    at = np.arange(MAX_TOKENS + 1)
    curve = np.interp(at, x, y)
    before, behind = at < x[0], at > x[-1]
    curve[before] = np.maximum(y[0] + slopes[0] * (at[before] - x[0]), y[0] / x[0] * at[before])
    curve[behind] = y[-1] + max(0.0, slopes[-1]) * (at[behind] - x[-1])
    rising: list[float] = np.maximum.accumulate(curve).tolist()
    return rising
