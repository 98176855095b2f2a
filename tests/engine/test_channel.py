import asyncio
import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.channel import (
    MAX_FRAME_BYTES,
    Channel,
    FrameError,
    FrameReader,
    FrameWriter,
    connect,
)
from headrace.types import (
    Abort,
    Command,
    EngineStats,
    FinishReason,
    Report,
    StepEvents,
    Timings,
    TokenEvent,
)
from tests.engine.oracle import make_add

ADD = make_add(
    7,
    [1, 2**40],
    seed=2**64 - 1,
    stop_token_ids=frozenset({1, 2}),
    logit_bias={5: -1.5},
    cache_salt="ü",
    output_ids=[3],
)
EVENTS = StepEvents(
    events=[
        TokenEvent(
            request_id=7,
            token_ids=[1, 2],
            finish_reason=FinishReason.LENGTH,
            logprobs=[-0.5, -1.0],
            top_logprobs=[[(1, -0.5)], [(2, -1.0)]],
            prompt_logprobs=[None, -2.0],
            timings=Timings(queue_time=0.1, prefill_time=0.2, decode_time=0.3, num_cached_tokens=4),
        )
    ],
    stats=EngineStats(num_running=3),
)


@given(st.lists(st.integers(1, 40), max_size=60))
def test_frames_may_arrive_in_any_pieces(sizes: list[int]) -> None:
    sent = [ADD, Abort([1, 2]), Abort([]), ADD]
    stream = b"".join(FrameWriter().frame(message) for message in sent)
    reader: FrameReader[Command] = FrameReader(Command)
    received = []
    for size in [*sizes, len(stream)]:
        received += reader.feed(stream[:size])
        stream = stream[size:]
    assert received == sent


def test_all_that_an_event_can_carry_arrives_as_it_was() -> None:
    reader: FrameReader[Report] = FrameReader(Report)
    assert reader.feed(bytes(FrameWriter().frame(EVENTS))) == [EVENTS]


def test_nonsense_is_refused() -> None:
    too_long = (MAX_FRAME_BYTES + 1).to_bytes(4, "little")
    with pytest.raises(FrameError, match="at most"):
        FrameReader(Command).feed(too_long)
    wrong = msgspec.msgpack.encode({"type": "remove"})
    with pytest.raises(FrameError, match="cannot be decoded"):
        FrameReader(Command).feed(len(wrong).to_bytes(4, "little") + wrong)
    with pytest.raises(FrameError, match="at most"):
        FrameWriter().frame(b"x" * (MAX_FRAME_BYTES + 1))


def test_channel_receives_all_that_is_there_and_none_at_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel: Channel[Command] = Channel(theirs, Command)
        client: Channel[Report] = Channel(ours, Report)
        assert channel.receive(wait=False) == []
        client.send(Abort([1]))
        client.send(Abort([2]))
        assert channel.receive(wait=True) == [Abort([1]), Abort([2])]
        channel.send(EVENTS)
        assert client.receive(wait=True) == [EVENTS]
        client.send(Abort([3]))
        ours.close()
        assert channel.receive(wait=False) == [Abort([3])]
        assert channel.receive(wait=False) is None
        assert channel.receive(wait=True) is None
        channel.send(EVENTS)


def test_what_was_put_goes_before_what_is_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel: Channel[Command] = Channel(theirs, Command)
        client: Channel[Report] = Channel(ours, Report)
        client.put(Abort([1]))
        client.put(Abort([2]))
        assert channel.receive(wait=False) == []
        client.send(Abort([3]))
        assert channel.receive(wait=False) == [Abort([1]), Abort([2]), Abort([3])]
        client.flush()
        assert channel.receive(wait=False) == []


def test_idle_work_goes_on_until_it_is_done_or_something_arrives() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel, other = Channel[Command](theirs, Command), Channel[Command](ours, Command)
        calls: list[int] = []

        def work() -> bool:
            calls.append(len(calls))
            if len(calls) in (3, 6):
                other.send(Abort([len(calls)]))
            return len(calls) != 6

        other.send(Abort([0]))
        assert channel.receive_idle(work, patience=60.0) == [Abort([0])]  # at once
        assert not calls
        assert channel.receive_idle(work) == [Abort([3])]
        assert channel.receive_idle(work) == [Abort([6])]
        assert len(calls) == 6
        ours.close()
        assert channel.receive_idle(work) is None


async def test_asyncio_end() -> None:
    ours, theirs = socket.socketpair()
    received: list[Report] = []
    protocol = await connect(ours, Report, received.append)
    with theirs:
        engine: Channel[Command] = Channel(theirs, Command)
        protocol.send(ADD)
        assert await asyncio.to_thread(engine.receive, wait=True) == [ADD]
        engine.send(EVENTS)
        engine.send(EVENTS)
    await protocol.closed.wait()
    assert received == [EVENTS, EVENTS]
    protocol.send(ADD)
