"""What a step costs as a function of its tokens: measured while serving, never assumed."""

from bisect import bisect_left
from collections import deque
from itertools import accumulate
from math import log2
from typing import Final

Point = tuple[int, float]
"""Number of tokens, seconds."""

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
"""Measurements that are taken in together."""
MAX_WAITING: Final = 64
"""Measurements that wait for somebody to ask; while nobody does, older ones are dropped."""
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
        self._waiting: deque[tuple[int, float, bool]] = deque(maxlen=MAX_WAITING)
        self._buckets: dict[int, _Bucket] = {}
        self._with_prompts: dict[int, _Bucket] = {}
        """Of steps with prompt tokens, which may be computed in another way and be cheaper: they
        count only beyond all other steps, where at worst they tempt somebody to find out."""
        self._num_steps = 0
        self._line: list[Point] = []
        self._relative: dict[int, float] = {}
        """By number of tokens, what the line says."""
        self.load = 1.0

    def observe(self, num_tokens: int, duration: float, *, has_prompts: bool = False) -> None:
        """One step of `num_tokens` took so many seconds. Hot: runs in every step."""
        self._num_steps += 1
        self._waiting.append((num_tokens, duration, has_prompts))

    @property
    def is_known(self) -> bool:
        """Two points make a line."""
        self._catch_up()
        return bool(self._line)

    def relative(self, num_tokens: int) -> float:
        """Seconds at a load of 1; more tokens never take less, but nothing is known beyond
        MAX_TOKENS. Only if `is_known`."""
        seconds = self._relative.get(num_tokens)
        if seconds is None:
            seconds = self._relative[num_tokens] = _on_line(self._line, min(num_tokens, MAX_TOKENS))
        return seconds

    def __getitem__(self, num_tokens: int) -> float:
        """Seconds, as `relative`."""
        return self.load * self.relative(num_tokens)

    def _catch_up(self) -> None:
        if len(self._waiting) >= REFRESH or not self._line:
            while self._waiting:
                self._learn(*self._waiting.popleft())
            self._refresh()

    def _learn(self, num_tokens: int, duration: float, has_prompts: bool) -> None:
        buckets = self._with_prompts if has_prompts else self._buckets
        key = num_tokens
        if num_tokens > NUM_EXACT:
            key = NUM_EXACT + int(BUCKETS_PER_DOUBLING * log2(num_tokens / NUM_EXACT))
        duration /= self.load
        if (bucket := buckets.get(key)) is None:
            bucket = buckets[key] = _Bucket(num_tokens, duration)
        surprise = duration / bucket.duration
        surprise = min(MAX_SURPRISE, max(1 / MAX_SURPRISE, surprise))
        self.load *= surprise**LOAD_RATE
        bucket.observe(duration, surprise)
        bucket.last_step = self._num_steps

    def _refresh(self) -> None:
        oldest = self._num_steps - MAX_AGE
        self._buckets = {k: b for k, b in self._buckets.items() if b.last_step >= oldest}
        largest = max(self._buckets, default=0)
        buckets = [*self._buckets.values()]
        buckets += [bucket for key, bucket in self._with_prompts.items() if key > largest]
        if len(buckets) > 1:
            points = sorted((b.num_tokens, b.duration) for b in buckets)
            durations = accumulate((duration for _, duration in points), max)
            self._line = [(n, d) for (n, _), d in zip(points, durations, strict=True)]
            self._relative.clear()


def _on_line(points: list[Point], num_tokens: int) -> float:
    """Between the nearest two of the points, which rise; before the first in proportion at least;
    behind the last as from the first to the last."""
    end = min(max(bisect_left(points, (num_tokens, 0.0)), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[end - 1], points[end]
    if num_tokens > x1:
        (x0, y0), (x1, y1) = points[0], points[-1]
        return y1 + (y1 - y0) / (x1 - x0) * (num_tokens - x1)
    seconds = y0 + (y1 - y0) / (x1 - x0) * (num_tokens - x0)
    return max(seconds, y0 / x0 * num_tokens) if num_tokens < x0 else seconds
