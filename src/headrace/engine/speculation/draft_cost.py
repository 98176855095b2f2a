"""What the executor takes to draft: measured while serving, never assumed."""

from typing import Final

RATE_UP: Final = 0.1
RATE_DOWN: Final = 0.5
"""Weight of a new measurement. Upwards it may be a passing thing: a draft model had to catch up
with a prompt, or the step was interrupted."""


class DraftCost:
    """A fading mean of the time that one more drafted token takes for all rows together."""

    def __init__(self) -> None:
        self._per_depth = 0.0

    def observe(self, depth: int, duration: float) -> None:
        """Up to `depth` tokens for each row took so many seconds."""
        value = duration / depth
        if not self._per_depth:
            self._per_depth = value
        rate = RATE_UP if value > self._per_depth else RATE_DOWN
        self._per_depth += rate * (min(value, 2 * self._per_depth) - self._per_depth)

    def __getitem__(self, depth: int) -> float:
        """Seconds; 0 until measured."""
        return self._per_depth * depth
