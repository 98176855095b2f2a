"""What the executor takes to draft: measured while serving, never assumed."""

from typing import Final

RATE: Final = 0.15
"""Weight of a new measurement."""
MAX_SURPRISE: Final = 2.0
"""A measurement counts as at most this times what is known: it may have been interrupted."""
NUM_FIRST: Final = 3
"""Measurements of which the smallest counts: in the first a draft model catches up with prompts."""


class DraftCost:
    """Fading means of the time that one more drafted token takes for so many rows together."""

    def __init__(self) -> None:
        self._durations: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def observe(self, num_rows: int, depth: int, duration: float) -> None:
        """Up to `depth` tokens for each of the rows took so many seconds."""
        value = duration / depth
        known = self._durations.get(num_rows, value)
        count = self._counts[num_rows] = self._counts.get(num_rows, 0) + 1
        if count <= NUM_FIRST:
            self._durations[num_rows] = min(value, known)
        else:
            step = min(value, MAX_SURPRISE * known) - known
            self._durations[num_rows] = known + RATE * step

    def per_token(self, num_rows: int) -> float:
        """Seconds for one token of each row, as for the nearest number of rows that was measured;
        0 until there is one."""
        if not self._durations:
            return 0.0
        nearest = min(self._durations, key=lambda count: abs(count - num_rows))
        return self._durations[nearest]
