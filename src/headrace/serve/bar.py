"""A progress bar on a terminal; knows nothing of what goes on."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID


class Bar:
    """One task at a time. Nothing of it is imported before there is a terminal to show it on."""

    def __init__(self, *, counts_bytes: bool = False) -> None:
        """`counts_bytes`: with bytes, their rate and the time that is left."""
        self._counts_bytes = counts_bytes
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, description: str, total: int) -> bool:
        """Show a task in place of the one before; False where there is no terminal."""
        if not sys.stderr.isatty():
            return False
        self._progress = self._progress or self._start()
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total)
        return True

    def update(self, done: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done)

    def refresh(self) -> None:
        """Draw now, not at the next tenth of a second."""
        if self._progress is not None:
            self._progress.refresh()

    def stop(self) -> None:
        """Remove it."""
        if self._progress is not None:
            self._progress.stop()

    def _start(self) -> "Progress":
        # A tenth of a second of imports that a service never needs.
        from rich.console import Console
        from rich.progress import Progress

        columns = _byte_columns() if self._counts_bytes else Progress.get_default_columns()
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        progress.start()
        return progress


def _byte_columns() -> "list[str | ProgressColumn]":
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    return [
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
