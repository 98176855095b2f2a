import json

from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.record import Record
from headrace.bench.stream import EventStream

PIECES = ["The", " river", " é\n\ndata: x", "…"]


def body(separator: str) -> bytes:
    events = [json.dumps({"choices": [{"index": 0, "text": piece}]}) for piece in PIECES]
    events += [
        json.dumps({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}),
        json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}),
        "[DONE]",
    ]
    return b": a comment\n\n" + "".join(f"data: {e}{separator}" for e in events).encode()


def feed(data: bytes, cuts: list[int], cancel_after: int | None = None) -> Record:
    record = Record(prompt_number=0, started=0.0)
    stream = EventStream(record, cancel_after)
    edges = [0, *sorted(cuts), len(data)]
    for time, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        stream.feed(data[start:end], float(time))
    return record


@given(st.sampled_from(["\n\n", "\r\n\r\n"]), st.lists(st.integers(0, 600)))
def test_any_cut_reads_the_same(separator: str, cuts: list[int]) -> None:
    record = feed(body(separator), cuts)
    assert record.pieces == PIECES
    assert record.finish_reasons == ["stop"]
    assert (record.prompt_tokens, record.completion_tokens) == (3, 5)
    assert record.num_done == 1
    assert record.faults == [] and record.error is None
    assert len(record.arrivals) == len(PIECES)


@given(st.lists(st.integers(0, 600)), st.integers(1, 3))
def test_nothing_is_taken_in_after_the_cancellation(cuts: list[int], after: int) -> None:
    record = feed(body("\n\n"), cuts, cancel_after=after)
    assert record.cancelled
    assert record.pieces == PIECES[:after]
    assert record.num_done == 0


def test_chat_deltas_and_reasoning() -> None:
    deltas = [{"role": "assistant"}, {"reasoning_content": "Hm."}, {"content": "Yes"}, {}]
    data = b"".join(
        b"data: %s\n\n" % json.dumps({"choices": [{"delta": delta}]}).encode() for delta in deltas
    )
    assert feed(data, []).text == "Hm.Yes"
