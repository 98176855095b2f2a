"""Shows people how far loading is: a bar on a terminal, one log line per stage elsewhere; and in
the end what each stage took."""

import logging
import time
from typing import Self

from headrace.serve.bar import Bar
from headrace.types import LoadProgress

log = logging.getLogger(__name__)


class LoadDisplay:
    """Use as a context; call `update` with every report."""

    def __init__(self) -> None:
        self._bar = Bar()
        self._stage = ""
        self._began: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        """By stage; of several engines that load at once, all together."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._bar.stop()
        if kind is None and self._seconds:
            stages = (f"{stage} {seconds:.1f} s" for stage, seconds in self._seconds.items())
            log.info("%s", ", ".join(stages))

    def update(self, report: LoadProgress) -> None:
        """Show the stage and how much of it is done."""
        if report.stage != self._stage:
            self._stage = report.stage
            self._began.setdefault(report.stage, time.monotonic())
            if not self._bar.begin(report.stage, report.total):
                log.info(report.stage)
        if report.done == report.total:
            self._seconds[report.stage] = time.monotonic() - self._began[report.stage]
        self._bar.update(report.done)
