"""A progress bar with live tokens per second, on a terminal's stderr only.

Redrawn twice a second from the event loop: rich's own thread would take time from the server.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from headrace.bench.load import Extent
from headrace.bench.record import Record

PERIOD = 0.5  # seconds


@contextlib.asynccontextmanager
async def show_progress(
    title: str, records: Sequence[Record], extent: Extent
) -> AsyncIterator[None]:
    """While the block runs and `records` grows."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[requests]} requests"),
        TextColumn("[bold]{task.fields[speed]:,.0f}[/] tokens/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        total = extent.requests if extent.duration is None else extent.duration
        bar = progress.add_task(title, total=total, requests=0, speed=0.0)
        redraw = asyncio.create_task(_redraw(progress, bar, records, extent))
        try:
            yield
        finally:
            redraw.cancel()


async def _redraw(
    progress: Progress, bar: TaskID, records: Sequence[Record], extent: Extent
) -> None:
    started = last_time = time.perf_counter()
    last_tokens = 0
    while True:
        await asyncio.sleep(PERIOD)
        now = time.perf_counter()
        num_ended = sum(1 for record in records if record.ended)
        num_tokens = sum(len(record.arrivals) for record in records)
        speed = (num_tokens - last_tokens) / (now - last_time)
        completed = num_ended if extent.duration is None else now - started
        progress.update(bar, completed=completed, requests=num_ended, speed=speed, refresh=True)
        last_time, last_tokens = now, num_tokens
