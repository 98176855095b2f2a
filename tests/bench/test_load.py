import asyncio
import random
import statistics
import time
from types import SimpleNamespace

import pytest

from headrace.bench import load
from headrace.bench.load import Extent, closed_loop, open_loop


async def test_closed_loop_keeps_so_many_running() -> None:
    running = 0
    seen: list[int] = []
    at_once: list[int] = []

    async def send(number: int) -> None:
        nonlocal running
        running += 1
        seen.append(number)
        at_once.append(running)
        await asyncio.sleep(random.random() / 100)
        running -= 1

    await closed_loop(send, 3, Extent(20, None).numbers(first=5))
    assert seen == list(range(5, 25))
    assert max(at_once) == 3
    assert at_once[2:] == [3] * 18


async def test_open_loop_has_exponential_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    times: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        await asyncio.sleep(0)
        now += seconds

    async def send(number: int) -> None:
        times.append(now)

    monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(load, "asyncio", SimpleNamespace(TaskGroup=asyncio.TaskGroup, sleep=sleep))
    await open_loop(send, 400, Extent(200, None).numbers(0), random.Random(3))
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    mean = statistics.fmean(gaps)
    assert 0.7 / 400 < mean < 1.4 / 400
    assert 0.6 < statistics.pstdev(gaps) / mean < 1.6  # 1 for exponential, 0 for regular gaps


async def test_duration_bounds_the_starts() -> None:
    numbers = Extent(None, 0.05).numbers(0)

    async def send(number: int) -> None:
        await asyncio.sleep(0.01)

    started = time.perf_counter()
    await closed_loop(send, 2, numbers)
    assert time.perf_counter() - started >= 0.05
