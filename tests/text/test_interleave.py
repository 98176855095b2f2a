"""Several streams read as one."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from headrace.text.interleave import interleave


class Streams:
    """Counts which of its streams were closed."""

    def __init__(self) -> None:
        self.closed: set[int] = set()

    async def count(self, name: int, items: int, fail_at: int = -1) -> AsyncGenerator[int, None]:
        try:
            for item in range(items):
                await asyncio.sleep(0)
                if item == fail_at:
                    raise ValueError(name)
                yield name * 100 + item
        finally:
            self.closed.add(name)


@pytest.mark.parametrize("number", [1, 2, 5])
async def test_all_items_come_and_each_stream_keeps_its_order(number: int) -> None:
    streams = Streams()
    received = [x async for x in interleave([streams.count(i, 7 + i) for i in range(number)])]
    for name in range(number):
        mine = [item for item in received if item // 100 == name]
        assert mine == [name * 100 + item for item in range(7 + name)]
    assert len(received) == sum(7 + name for name in range(number))


async def test_streams_advance_together() -> None:
    streams = Streams()
    received = [x async for x in interleave([streams.count(0, 20), streams.count(1, 20)])]
    assert {item // 100 for item in received[:4]} == {0, 1}


@pytest.mark.parametrize("number", [1, 3])
async def test_closing_closes_every_stream(number: int) -> None:
    streams = Streams()
    merged = interleave([streams.count(i, 1000) for i in range(number)])
    for _ in range(3 * number):
        await anext(merged)
    await merged.aclose()
    assert streams.closed == set(range(number))


@pytest.mark.parametrize("number", [1, 3])
async def test_one_failure_ends_all(number: int) -> None:
    streams = Streams()
    merged = interleave(
        [streams.count(i, 1000, fail_at=5 if i == 0 else -1) for i in range(number)]
    )
    with pytest.raises(ValueError, match="0"):
        async for _ in merged:
            pass
    assert streams.closed == set(range(number))
