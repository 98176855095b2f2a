"""A reply's segments do not depend on where its deltas were cut."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.api.segments import (
    Begin,
    CallSegment,
    End,
    Grow,
    ReasoningSegment,
    ReplySegments,
    TextSegment,
)
from headrace.text.generation import Finish, PromptInfo, TextDelta, TokenText
from headrace.text.reply import ReplyParser
from headrace.text.tools.calls import CallRules
from headrace.text.tools.registry import FORMATS
from headrace.types import FinishReason
from tests.api.fake_frontend import TIMINGS
from tests.api.replies import ARGUMENTS, CALLS, THINK

REPLY = f"<think>Hm</think>Let me see.\n{CALLS}\nDone."


def new_parser() -> ReplyParser:
    rules = CallRules(names=frozenset({"weather", "now"}), is_eager=True)
    return ReplyParser(FORMATS["hermes"], rules, THINK)


def deltas(pieces: list[str], reason: FinishReason = FinishReason.EOS_TOKEN) -> list[TextDelta]:
    text = "".join(pieces)
    finish = Finish(reason, len(pieces), text, None, TIMINGS, 0.0)
    return [
        TextDelta(
            0,
            piece,
            (TokenText(number, piece, -1.0),),
            PromptInfo(7) if number == 0 else None,
            finish if number == len(pieces) - 1 else None,
        )
        for number, piece in enumerate(pieces)
    ]


def told(reply: ReplySegments, pieces: list[str]) -> list[Any]:
    """Rebuild the segments from the changes alone, and check each against the state."""
    seen: list[Any] = []
    for delta in deltas(pieces):
        for change in reply.update(delta):
            assert change.segment is reply.segments[change.index]
            match change:
                case Begin(index, segment):
                    assert index == len(seen) and segment.text == ""
                    seen.append([type(segment), "", False])
                case Grow(index, segment, text):
                    assert index == len(seen) - 1 and not seen[index][2]
                    seen[index][1] += text
                    assert seen[index][1] == segment.text
                case End(index):
                    assert index == len(seen) - 1
                    seen[index][2] = True
    return seen


@given(st.sets(st.integers(1, len(REPLY) - 1)))
def test_however_it_is_cut(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(REPLY)]
    pieces = [REPLY[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    reply = ReplySegments(new_parser)
    seen = told(reply, pieces)
    assert seen == [
        [ReasoningSegment, "Hm", True],
        [TextSegment, "Let me see.", True],
        [CallSegment, ARGUMENTS, True],
        [CallSegment, "{}", True],
        [TextSegment, "Done.", True],
    ]
    names = [each.name for each in reply.segments if isinstance(each, CallSegment)]
    assert names == ["weather", "now"]
    assert reply.prompt.num_tokens == 7


def test_tokens_of_plain_text_are_all_there() -> None:
    reply = ReplySegments(None)
    assert told(reply, ["Hel", "", "lo", ""]) == [[TextSegment, "Hello", True]]
    (segment,) = reply.segments
    assert isinstance(segment, TextSegment)
    assert [token.id for token in segment.tokens] == [0, 1, 2, 3], "the end's token included"


def test_a_cut_reply_does_not_end_in_calls() -> None:
    for reason, text, expected in (
        (FinishReason.EOS_TOKEN, CALLS, True),
        (FinishReason.LENGTH, CALLS, False),
        (FinishReason.EOS_TOKEN, "Well.", False),
    ):
        reply = ReplySegments(new_parser)
        for delta in deltas([text], reason):
            list(reply.update(delta))
        assert reply.ends_in_calls is expected
        assert reply.is_cut is (reason is FinishReason.LENGTH)
