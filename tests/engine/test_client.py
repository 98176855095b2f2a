import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from headrace.engine.client import ProcessEngineClient
from headrace.engine.process import ChildProcess, launch
from headrace.engine.replica import Launch
from headrace.errors import EngineDeadError, StartupError
from headrace.types import Add, EngineClient, EngineInfo, LoadProgress
from tests.engine import fake_engine
from tests.engine.oracle import expected, make_add

ROOT = Path(__file__).parent.parent.parent


class Launcher:
    """Launches fake engines and remembers them; `options` may change between launches."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.processes: list[ChildProcess] = []
        self.told: list[EngineInfo | None] = []

    async def __call__(self, previous: EngineInfo | None) -> ChildProcess:
        self.told.append(previous)
        process = await launch(
            [sys.executable, "-m", "tests.engine.fake_engine", json.dumps(self.options)]
        )
        self.processes.append(process)
        return process


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@asynccontextmanager
async def running(
    launcher: Launcher, replicas: int = 1, **options: Any
) -> AsyncIterator[ProcessEngineClient]:
    launches = [launcher] * replicas
    client = ProcessEngineClient(launches, pause_seconds=0.01, **options)
    await client.start()
    try:
        yield client
    finally:
        await client.close()
        for process in launcher.processes:
            assert not psutil.pid_exists(process.pid)


async def collect(client: EngineClient, add: Add, progress: list[int] | None = None) -> list[int]:
    """The request's tokens; every stream adds them to `progress`, too."""
    tokens: list[int] = []
    async for event in client.generate(add):
        assert event.error is None
        tokens += event.token_ids
        if progress is not None:
            progress += event.token_ids
    assert event.finish_reason == expected(add, fake_engine.VOCAB_SIZE)[1]
    return tokens


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.01)


def some_adds(count: int, max_tokens: int = 30) -> list[Add]:
    return [make_add(i, [1, 2, 3, 4, 5, 6, 7, 8, i], max_tokens) for i in range(count)]


async def test_streams_of_many_requests() -> None:
    progress: list[LoadProgress] = []
    async with running(Launcher(), on_progress=progress.append) as client:
        assert progress == [LoadProgress("weights", 1, 2)]
        assert client.info.vocab_size == fake_engine.VOCAB_SIZE
        adds = some_adds(20)
        outputs = await asyncio.gather(*(collect(client, add) for add in adds))
        assert outputs == [expected(add, fake_engine.VOCAB_SIZE)[0] for add in adds]
        assert client.stats.num_running == 0
        assert client.stats.prefix_cache_hits > 0


@pytest.mark.parametrize("seed", range(2))
async def test_killed_engines_leave_no_trace_in_the_streams(seed: int) -> None:
    chance = random.Random(seed)
    launcher = Launcher(step_delay=0.005)
    async with running(launcher) as client:
        adds = some_adds(12, max_tokens=100)
        progress: list[int] = []
        streams = asyncio.gather(*(collect(client, add, progress) for add in adds))
        for number in range(1, 4):
            enough = len(progress) + chance.randrange(1, 200)
            await until(lambda enough=enough: len(progress) >= enough)  # type: ignore[misc]
            launcher.processes[-1].kill()
            await until(lambda number=number: len(launcher.processes) > number)  # type: ignore[misc]
        assert await streams == [expected(add, fake_engine.VOCAB_SIZE)[0] for add in adds]
    assert len(launcher.processes) == 4


@pytest.mark.parametrize("seed", range(2))
async def test_streams_of_a_killed_replica_go_on_elsewhere(seed: int) -> None:
    chance = random.Random(seed)
    launcher = Launcher(step_delay=0.005)
    async with running(launcher, replicas=3) as client:
        adds = some_adds(24, max_tokens=100)
        streams = asyncio.gather(*(collect(client, add) for add in adds))
        await until(lambda: client.stats.num_running > 12)
        for _ in range(3):
            chance.choice(launcher.processes[-3:]).kill()
            await asyncio.sleep(0.05)
            assert client.is_healthy
        assert await streams == [expected(add, fake_engine.VOCAB_SIZE)[0] for add in adds]


async def test_replicas_are_one_engine_to_their_users() -> None:
    async with running(Launcher(), replicas=2) as one, running(Launcher()) as other:
        assert one.info.num_blocks == 2 * other.info.num_blocks
        assert one.info.max_total_tokens == other.info.max_total_tokens
        for add in some_adds(6):
            assert await collect(one, add) == await collect(other, add)
        # All have the same first eight tokens, two blocks, and went where these are.
        assert one.stats.prefix_cache_hits == other.stats.prefix_cache_hits > 0


async def test_a_new_process_is_as_large_as_the_one_before() -> None:
    launcher = Launcher()
    async with running(launcher) as client:
        launcher.processes[-1].kill()
        await until(lambda: len(launcher.processes) == 2 and client.is_healthy)
    assert launcher.told[0] is None
    assert launcher.told[1] == client.info


async def test_an_abandoned_stream_is_aborted_at_once() -> None:
    async with running(Launcher(step_delay=0.005)) as client:
        stream = client.generate(make_add(1, [1, 2, 3], max_tokens=200))
        await anext(stream)
        await stream.aclose()
        total = client.info.num_blocks
        await until(lambda: client.stats.num_free_blocks == total)
        assert client.stats.num_running == 0
        other = make_add(2, [1, 2, 3], max_tokens=10)
        assert await collect(client, other) == expected(other, fake_engine.VOCAB_SIZE)[0]


async def test_refused_and_failing_requests_end_with_their_error_alone() -> None:
    async with running(Launcher(poison=666)) as client:
        good = make_add(1, [1, 2, 3])
        bad = [make_add(2, [5, 666]), make_add(3, [5] * 1000)]
        outcome = asyncio.create_task(collect(client, good))
        for add in bad:
            (event,) = [event async for event in client.generate(add)]
            assert event.error
        assert await outcome == expected(good, fake_engine.VOCAB_SIZE)[0]


async def test_a_request_that_kills_the_engine_fails_and_others_go_on() -> None:
    launcher = Launcher(lethal=666, step_delay=0.01)
    async with running(launcher) as client:
        good = make_add(1, [1, 2, 3], max_tokens=100)
        stream = asyncio.create_task(collect(client, good))
        await until(lambda: client.stats.num_running == 1)
        # The budget of a step is 32: the prompt reaches its end after the other has a token.
        with pytest.raises(EngineDeadError, match="3 times"):
            await collect(client, make_add(2, [7] * 100 + [666]))
        assert await stream == expected(good, fake_engine.VOCAB_SIZE)[0]
        assert client.is_healthy
    assert len(launcher.processes) == 4


async def test_failed_launches_fail_requests_until_one_succeeds() -> None:
    launcher = Launcher(step_delay=0.01)
    async with running(launcher) as client:
        stream = asyncio.create_task(collect(client, make_add(1, [1, 2, 3], max_tokens=200)))
        await until(lambda: client.stats.num_running == 1)
        launcher.options = {"lethal_start": True}
        launcher.processes[-1].kill()
        with pytest.raises(EngineDeadError, match="cannot be restarted"):
            await stream
        assert not client.is_healthy
        with pytest.raises(EngineDeadError, match="down"):
            await collect(client, make_add(2, [1]))
        launcher.options = {}
        await until(lambda: client.is_healthy)
        good = make_add(3, [1, 2, 3])
        assert await collect(client, good) == expected(good, fake_engine.VOCAB_SIZE)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"failure": "no such model"}, "no such model"), ({"lethal_start": True}, "ended with 3")],
)
async def test_a_failing_start_says_why(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        await ProcessEngineClient([Launcher(**options)]).start()


async def test_a_stalled_engine_is_unhealthy_and_an_idle_one_is_not() -> None:
    async with running(Launcher(step_delay=2.0), stall_seconds=0.2) as client:
        await asyncio.sleep(0.3)
        assert client.is_healthy
        stream = asyncio.create_task(collect(client, make_add(1, [1], max_tokens=1)))
        await asyncio.sleep(0)
        assert client.is_healthy
        await until(lambda: not client.is_healthy)
        await stream
        assert client.is_healthy


async def test_closing_fails_what_is_still_running() -> None:
    async with running(Launcher(step_delay=0.01)) as client:
        stream = asyncio.create_task(collect(client, make_add(1, [1], max_tokens=200)))
        await until(lambda: client.stats.num_running == 1)
    with pytest.raises(EngineDeadError, match="shutting down"):
        await stream


def test_it_runs_on_uvloop_as_the_server_does() -> None:
    async def run() -> None:
        async with running(Launcher()) as client:
            add = make_add(1, [1, 2, 3])
            assert await collect(client, add) == expected(add, fake_engine.VOCAB_SIZE)[0]

    uvloop.run(asyncio.wait_for(run(), timeout=60))


def test_it_is_an_engine_client() -> None:
    client: EngineClient = ProcessEngineClient([Launcher()])
    launcher: Launch = Launcher()
    assert not client.is_healthy
    assert launcher
