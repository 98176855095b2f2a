"""What a step costs as a function of its tokens: measured while serving, never assumed."""

from math import log2
from typing import Final

NUM_EXACT: Final = 16
"""Numbers of tokens that have a bucket of their own; from there on 4 buckets per doubling."""
BUCKETS_PER_DOUBLING: Final = 4
RATE: Final = 0.15
"""Weight of a new measurement."""
MAX_SURPRISE: Final = 2.0
"""A measurement counts as at most this times what is known: a step may have been interrupted."""
MAX_AGE: Final = 2000
"""Steps after which a bucket without new measurements is forgotten, so that it gets another try."""
REFRESH: Final = 8
MAX_TOKENS: Final = 512


class _Bucket:
    def __init__(self, num_tokens: int, duration: float) -> None:
        self.num_tokens = float(num_tokens)
        self.duration = duration
        self.last_step = 0


class StepCost:
    """Fading means by bucket, joined by straight lines."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._num_steps = 0
        self._curve: list[float] = []

    @property
    def is_known(self) -> bool:
        """Two points make a line."""
        return bool(self._curve)

    def observe(self, num_tokens: int, duration: float) -> None:
        """One step of `num_tokens` took so many seconds."""
        self._num_steps += 1
        key = num_tokens
        if num_tokens > NUM_EXACT:
            key = NUM_EXACT + int(BUCKETS_PER_DOUBLING * log2(num_tokens / NUM_EXACT))
        bucket = self._buckets.setdefault(key, _Bucket(num_tokens, duration))
        duration = min(duration, MAX_SURPRISE * bucket.duration)
        bucket.duration += RATE * (duration - bucket.duration)
        bucket.num_tokens += RATE * (num_tokens - bucket.num_tokens)
        bucket.last_step = self._num_steps
        if self._num_steps % REFRESH == 0 or not self._curve:
            self._refresh()

    def _refresh(self) -> None:
        oldest = self._num_steps - MAX_AGE
        self._buckets = {k: b for k, b in self._buckets.items() if b.last_step >= oldest}
        points = sorted((b.num_tokens, b.duration) for b in self._buckets.values())
        if len(points) > 1:
            self._curve = _interpolate(points)

    def __getitem__(self, num_tokens: int) -> float:
        """Seconds; more tokens never take less."""
        return self._curve[min(num_tokens, MAX_TOKENS)]


def _interpolate(points: list[tuple[float, float]]) -> list[float]:
    """Durations of 0 to MAX_TOKENS tokens, rising: before the first point in proportion at least,
    behind the last as between the last two."""
    curve: list[float] = []
    longest = 0.0
    following = iter(points[1:])
    (x0, y0), (x1, y1) = points[0], next(following)
    for num_tokens in range(MAX_TOKENS + 1):
        while num_tokens > x1 and (point := next(following, None)):
            (x0, y0), (x1, y1) = (x1, y1), point
        duration = y0 + (y1 - y0) / (x1 - x0) * (num_tokens - x0)
        if num_tokens < x0:
            duration = max(duration, y0 / x0 * num_tokens)
        longest = max(longest, duration)
        curve.append(longest)
    return curve
