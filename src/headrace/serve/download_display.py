"""Shows people how far a download is: a bar on a terminal, a log line every few seconds elsewhere.

Bytes, rate and remaining time, of all files together.
"""

import logging
import time
from collections.abc import Callable
from typing import Self

from headrace.serve.bar import Bar

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0
UNITS = ("B", "kB", "MB", "GB", "TB")


class DownloadDisplay:
    """Use as a context; call `update` with bytes done and in all, from one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bar = Bar(counts_bytes=True)
        self._has_bar = False
        self._total = -1
        self._began = self._next_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """Another `total` than before is another download."""
        if total != self._total:
            self._begin(total)
        if self._has_bar:
            self._bar.update(done)
        elif self._clock() >= self._next_line or done == total:
            self._next_line = self._clock() + SECONDS_BETWEEN_LINES
            log.info("%s", self._line(done))

    def _begin(self, total: int) -> None:
        self._total = total
        self._began = self._clock()
        self._next_line = self._began + SECONDS_BETWEEN_LINES
        self._has_bar = self._bar.begin("download", total)

    def _line(self, done: int) -> str:
        elapsed = max(self._clock() - self._began, 1e-3)
        rate = done / elapsed
        line = f"downloaded {_size(done)} of {_size(self._total)}, {_size(rate)}/s"
        if done < self._total and rate > 0:
            line += f", {(self._total - done) / rate:.0f} s left"
        return line


def _size(count: float) -> str:
    """Three digits at most, in decimal units."""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {UNITS[-1]}"
