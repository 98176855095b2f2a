"""When requests are sent: as a closed loop or an open one. Knows not what they are."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

Send = Callable[[int], Coroutine[Any, Any, None]]
"""Sends the request of that number and returns when it has ended."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much load: `requests` at most, none started later than `duration` seconds."""

    requests: int | None
    duration: float | None

    def numbers(self, first: int) -> Iterator[int]:
        """Numbers of the requests to start, while it is time to."""
        started = time.perf_counter()
        number = first
        while self.requests is None or number < first + self.requests:
            if self.duration is not None and time.perf_counter() - started >= self.duration:
                return
            yield number
            number += 1


async def closed_loop(send: Send, streams: int, numbers: Iterator[int]) -> None:
    """`streams` clients, each sending its next request when its last one ended."""

    async def client() -> None:
        for number in numbers:
            await send(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(client())


async def open_loop(send: Send, rate: float, numbers: Iterator[int], rng: random.Random) -> None:
    """Poisson arrivals, `rate` requests per second, however many are still running."""
    due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(send(number))
            due += rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
