import socket
import threading
import time
from collections.abc import Iterator

import pytest

from headrace.engine.channel import Channel
from headrace.engine.core import EngineCore
from headrace.engine.fake import FakeExecutor
from headrace.engine.scheduler import Scheduler
from headrace.types import Abort, Command, Report, StepEvents
from tests.engine.oracle import expected, make_add
from tests.engine.vocabulary import grammar_jobs


class Client:
    """The other end of a core's channel."""

    def __init__(self, connection: socket.socket) -> None:
        self.channel: Channel[Report] = Channel(connection, Report)

    def steps(self) -> Iterator[StepEvents]:
        while (reports := self.channel.receive(wait=True)) is not None:
            for report in reports:
                assert isinstance(report, StepEvents)
                yield report


@pytest.fixture
def core() -> Iterator[tuple[EngineCore, Client]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        scheduler = Scheduler(
            num_blocks=16, block_size=4, max_batch_prefill_tokens=16, max_num_seqs=4
        )
        executor = FakeExecutor(num_blocks=16, block_size=4, lethal=666)
        channel = Channel[Command](theirs, Command)
        yield EngineCore(scheduler, executor, channel, grammar_jobs(1000)), Client(ours)


def test_runs_requests_and_ends_with_the_client(core: tuple[EngineCore, Client]) -> None:
    engine, client = core
    thread = threading.Thread(target=engine.run)
    thread.start()
    add = make_add(1, list(range(20)), max_tokens=5)
    client.channel.send(add)
    tokens: list[int] = []
    num_steps = 0
    for report in client.steps():
        num_steps += 1
        tokens += [token for event in report.events for token in event.token_ids]
        stats = report.stats
        parts = stats.schedule_duration + stats.execute_duration + stats.update_duration
        assert stats.step_duration == pytest.approx(parts) and parts > stats.execute_duration > 0
        assert stats.num_failed == 0
        if report.events and report.events[0].finish_reason:
            break
    assert (tokens, num_steps) == (expected(add, 1000)[0], 6)
    assert report.stats.num_running == 0
    assert report.stats.num_sampled_rows == 1
    assert report.stats.num_free_blocks == 16
    client.channel.send(make_add(2, []))
    assert next(client.steps()).stats.num_sampled_rows == 0  # no step
    client.channel._socket.close()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_tokens_of_short_steps_arrive_together_but_for_the_first(
    core: tuple[EngineCore, Client],
) -> None:
    engine, client = core
    thread = threading.Thread(target=engine.run)
    thread.start()
    add = make_add(1, [1, 2, 3], max_tokens=60)
    client.channel.send(add)
    received: list[list[StepEvents]] = []
    tokens: list[int] = []
    while len(tokens) < 60:
        reports = client.channel.receive(wait=True)
        assert reports
        received.append([report for report in reports if isinstance(report, StepEvents)])
        tokens += [t for each in received[-1] for event in each.events for t in event.token_ids]
    client.channel._socket.close()
    thread.join(timeout=60)
    assert tokens == expected(add, 1000)[0]
    assert [len(report.events) for report in received[0]] == [1]
    assert sum(map(len, received)) == 60 > 2 * len(received)


def test_an_idle_engine_sleeps(core: tuple[EngineCore, Client]) -> None:
    engine, client = core
    used: list[float] = []

    def run() -> None:
        engine.run()
        used.append(time.thread_time())

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.5)
    client.channel._socket.close()
    thread.join(timeout=60)
    assert used[0] < 0.25  # a busy loop would have used all of it


def test_what_waits_for_nothing_prepares_until_something_comes(
    core: tuple[EngineCore, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, client = core
    add = make_add(1, [1, 2, 3], max_tokens=2)
    calls: list[bool] = []

    def prepare() -> bool:
        """There is more to prepare up to the ninth call; the request comes in the third."""
        calls.append(engine.has_work)
        if len(calls) == 3:
            client.channel.send(add)
        return len(calls) < 9

    monkeypatch.setattr(engine.executor, "prepare", prepare)
    assert engine.receive() == [add]
    assert len(calls) == 3
    engine.obey([add])
    while engine.has_work:
        assert engine.receive() == []
        engine.step([])
    client.channel.send(Abort([1]))
    assert engine.receive() == [Abort([1])]
    client.channel._socket.close()
    assert engine.receive() is None
    assert not any(calls)


def test_refusals_and_aborts_are_answered_without_a_step(core: tuple[EngineCore, Client]) -> None:
    engine, client = core
    (refusal,) = engine.obey([make_add(1, [])])
    assert refusal.error
    engine.obey([make_add(2, [1, 2, 3]), make_add(3, [4]), Abort([2, 3, 99])])
    assert not engine.scheduler.has_work
    engine.emit([refusal], engine.scheduler.stats(), 0.0)
    report = next(client.steps())
    assert [event.request_id for event in report.events] == [1]
    assert report.stats.num_waiting == 0


def test_a_broken_device_ends_the_loop(core: tuple[EngineCore, Client]) -> None:
    engine, client = core
    client.channel.send(make_add(1, [1, 666]))
    with pytest.raises(RuntimeError, match="broken"):
        engine.run()
