"""Several token streams as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from headrace.text.generation import TextDelta


async def merge(
    streams: Sequence[AsyncGenerator[TextDelta, None]], width: int
) -> AsyncGenerator[TextDelta, None]:
    """Yield the deltas as they come; sequence i of stream s becomes sequence s * width + i.

    The first error ends all streams. Closing closes them.
    """
    waiting: dict[asyncio.Future[TextDelta | None], int] = {}
    try:
        for number, stream in enumerate(streams):
            waiting[asyncio.ensure_future(anext(stream, None))] = number
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                number = waiting.pop(future)
                delta = future.result()
                if delta is None:
                    continue
                waiting[asyncio.ensure_future(anext(streams[number], None))] = number
                yield replace(delta, index=number * width + delta.index)
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
