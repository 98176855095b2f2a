"""Shows people how far loading is: a bar on a terminal, one log line per stage elsewhere; and in
the end what each stage took."""

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from headrace.types import LoadProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = logging.getLogger(__name__)


class LoadDisplay:
    """Use as a context; call `update` with every report."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._began: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        """By stage; of several engines that load at once, all together."""

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            # A tenth of a second of imports that a service never needs.
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if error is None and self._seconds:
            stages = (f"{stage} {seconds:.1f} s" for stage, seconds in self._seconds.items())
            log.info("%s", ", ".join(stages))

    def update(self, report: LoadProgress) -> None:
        """Show the stage and how much of it is done."""
        if report.stage != self._stage:
            self._stage = report.stage
            self._begin(report)
        if report.done == report.total:
            self._seconds[report.stage] = time.monotonic() - self._began[report.stage]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=report.done, total=report.total)

    def _begin(self, report: LoadProgress) -> None:
        self._began.setdefault(report.stage, time.monotonic())
        if self._bar is None:
            log.info(report.stage)
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(report.stage, total=report.total)
