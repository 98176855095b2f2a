import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.channel import Channel
from headrace.engine.outbox import Outbox
from headrace.types import (
    Command,
    EngineStats,
    FinishReason,
    Report,
    StepEvents,
    Timings,
    TokenEvent,
)

HOLD_SECONDS = 0.008
TIMINGS = Timings(queue_time=0.0, prefill_time=0.0, decode_time=0.0, num_cached_tokens=0)
FIRST = TokenEvent(request_id=1, token_ids=[1], timings=TIMINGS)
LATER = TokenEvent(request_id=1, token_ids=[2])
FORCED = TokenEvent(request_id=1, token_ids=[3, 4], is_forced=True)
LAST = TokenEvent(request_id=1, token_ids=[5], timings=TIMINGS, finish_reason=FinishReason.LENGTH)
FAILED = TokenEvent(request_id=2, token_ids=[], error="broken")


def report(*events: TokenEvent, duration: float) -> StepEvents:
    return StepEvents(events=list(events), stats=EngineStats(step_duration=duration))


class Wire:
    """An outbox, and what comes out of it."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.outbox = Outbox(Channel[Command](ours, Command), HOLD_SECONDS)
        self._client: Channel[Report] = Channel(theirs, Report)

    def arrived(self) -> list[Report]:
        reports = self._client.receive(wait=False)
        assert reports is not None
        return reports


@pytest.fixture
def wire() -> Iterator[Wire]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Wire(ours, theirs)


def test_reports_of_short_steps_travel_together(wire: Wire) -> None:
    wire.outbox.begin_step(1)
    sent = [report(LATER, duration=0.003) for _ in range(6)]
    sizes = []
    for number, each in enumerate(sent):
        wire.outbox.put(each, number * 0.003)
        sizes.append(len(wire.arrived()))
        wire.outbox.begin_step(1)
    assert sizes == [0, 0, 3, 0, 0, 3]  # a fourth would come 9 ms after the first


def test_long_steps_report_at_once(wire: Wire) -> None:
    wire.outbox.put(each := report(LATER, duration=HOLD_SECONDS * 1.01), 0.0)
    assert wire.arrived() == [each]


@pytest.mark.parametrize("event", [FIRST, LAST, FAILED])
def test_ends_of_a_request_do_not_wait(wire: Wire, event: TokenEvent) -> None:
    held = report(LATER, FORCED, duration=0.001)
    wire.outbox.put(held, 0.0)
    assert wire.arrived() == []
    wire.outbox.put(each := report(LATER, event, duration=0.001), 0.001)
    assert wire.arrived() == [held, each]


@pytest.mark.parametrize("num_tokens", [0, 3, 500])
def test_nothing_waits_for_a_longer_step_or_for_none(wire: Wire, num_tokens: int) -> None:
    wire.outbox.begin_step(2)
    wire.outbox.put(held := report(LATER, duration=0.001), 0.0)
    assert wire.arrived() == []
    wire.outbox.begin_step(num_tokens)
    assert wire.arrived() == [held]


EVENTS = st.lists(st.sampled_from([FIRST, LATER, FORCED, LAST, FAILED]), max_size=4)


@given(st.lists(st.tuples(st.integers(1, 9), EVENTS)), st.floats(0.0003, 0.012))
def test_none_is_lost_or_late(steps: list[tuple[int, list[TokenEvent]]], pace: float) -> None:
    """A step takes `pace` seconds for each of its tokens."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(ours, theirs)
        now = 0.0
        sent: list[StepEvents] = []
        ends: list[float] = []
        received: list[Report] = []
        for num_tokens, events in steps:
            wire.outbox.begin_step(num_tokens)
            received += wire.arrived()
            now += pace * num_tokens
            sent.append(report(*events, duration=pace * num_tokens))
            ends.append(now)
            wire.outbox.put(sent[-1], now)
            late = [end for end in ends[len(received) :] if now - end > HOLD_SECONDS + 1e-9]
            assert not late
            received += wire.arrived()
            held = [event for each in sent[len(received) :] for event in each.events]
            assert all(event in (LATER, FORCED) for event in held)
        wire.outbox.flush()
        assert received + wire.arrived() == sent
