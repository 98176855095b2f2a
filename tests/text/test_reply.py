"""Whole = cut anywhere, and replies written in a model's format come back as they were meant."""

import json
from collections.abc import Iterable, Sequence
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.text.reasoning import ReasoningMarkers
from headrace.text.reply import ReplyParser
from headrace.text.reply_events import Content, Reasoning, Reply, ReplyEvent, fold
from headrace.text.tools.calls import CallRules
from headrace.text.tools.registry import FORMATS

THINK = ReasoningMarkers("<think>", "</think>")
NAMES = ("get_weather", "f", "math.add-1")
Call = tuple[str, dict[str, Any]]


def make_parser(
    name: str,
    *,
    is_eager: bool = False,
    max_calls: int | None = None,
    reasoning: ReasoningMarkers | None = THINK,
    in_reasoning: bool = False,
) -> ReplyParser:
    ids = count()
    rules = CallRules(
        names=frozenset(NAMES),
        is_eager=is_eager,
        max_calls=max_calls,
        new_id=lambda: f"id{next(ids)}",
    )
    return ReplyParser(FORMATS[name], rules, reasoning, in_reasoning=in_reasoning)


def parse(parser: ReplyParser, pieces: Iterable[str]) -> Reply:
    events: list[ReplyEvent] = []
    for piece in pieces:
        events += parser.feed(piece)
    return fold(events + parser.finish())


def calls_of(reply: Reply) -> list[Call]:
    return [(call.name, json.loads(call.arguments)) for call in reply.calls]


def cut(text: str, places: Iterable[int]) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


# How models write calls, as their chat templates show it to them.
def write_hermes(calls: Sequence[Call]) -> str:
    blocks = (json.dumps({"name": n, "arguments": a}, ensure_ascii=False) for n, a in calls)
    return "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def write_llama3(calls: Sequence[Call]) -> str:
    return "; ".join(json.dumps({"name": n, "parameters": a}) for n, a in calls)


def write_python_tag(calls: Sequence[Call]) -> str:
    return "<|python_tag|>" + write_llama3(calls)


def write_mistral(calls: Sequence[Call]) -> str:
    listed = [{"name": n, "arguments": a, "id": "abcdefgh9"} for n, a in calls]
    return "[TOOL_CALLS] " + json.dumps(listed, ensure_ascii=False)


def write_mistral_arguments(calls: Sequence[Call]) -> str:
    return "".join(f"[TOOL_CALLS]{n}[ARGS]{json.dumps(a)}" for n, a in calls)


WRITERS = {
    ("hermes", write_hermes),
    ("llama3", write_llama3),
    ("llama3", write_python_tag),
    ("mistral", write_mistral),
    ("mistral_arguments", write_mistral_arguments),
}
FRAGMENTS = (
    "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]",
    "<think>", "</think>", '{"name": "f", "arguments": ', '{"name": "f", "parameters": ', "f",
    '{"name": "none", "arguments": ', '{"a": "', '{"a": {}}', "{}", '"', "\\", "{", "}", "[", "]",
    ",", ";", ":", " ", "\n", "<", "é", "日", "🎉", "text",
)  # fmt: skip

texts = st.text(max_size=8) | st.sampled_from(FRAGMENTS)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
calls = st.lists(
    st.tuples(st.sampled_from(NAMES), st.dictionaries(texts, values, max_size=3)),
    min_size=1,
    max_size=3,
)
places = st.lists(st.integers(0, 400), max_size=8)
soups = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)


@pytest.mark.parametrize("is_eager", [False, True])
@pytest.mark.parametrize("name", FORMATS)
@given(text=soups, places=places)
def test_any_text_cut_anywhere_is_the_whole(
    name: str, is_eager: bool, text: str, places: list[int]
) -> None:
    whole, one_by_one, pieces = (make_parser(name, is_eager=is_eager) for _ in range(3))
    expected = parse(whole, [text])
    assert parse(one_by_one, text) == expected
    assert parse(pieces, cut(text, places)) == expected
    assert whole.ends_in_calls == one_by_one.ends_in_calls == pieces.ends_in_calls


@pytest.mark.parametrize("name", FORMATS)
@given(text=soups)
def test_text_without_calls_is_passed_on_unchanged(name: str, text: str) -> None:
    reply = parse(make_parser(name, reasoning=None), text)
    if not reply.calls:
        assert reply == Reply(content=text)


@pytest.mark.parametrize(("name", "write"), sorted(WRITERS, key=str))
@given(calls=calls, places=places, is_eager=st.booleans(), thoughts=st.booleans())
def test_written_calls_come_back(
    name: str, write: Any, calls: list[Call], places: list[int], is_eager: bool, thoughts: bool
) -> None:
    text = ("<think>\nHm: {\n</think>\n\n" if thoughts else "") + write(calls)
    parser = make_parser(name, is_eager=is_eager)
    reply = parse(parser, cut(text, places))
    assert calls_of(reply) == calls
    assert reply.content == ""
    assert reply.reasoning == ("Hm: {" if thoughts else "")
    assert [call.id for call in reply.calls] == [f"id{i}" for i in range(len(calls))]
    assert parser.ends_in_calls


@pytest.mark.parametrize("is_eager", [False, True])
def test_text_around_calls(is_eager: bool) -> None:
    block = write_hermes([("f", {"a": 1})])
    parser = make_parser("hermes", is_eager=is_eager)
    reply = parse(parser, f"Let me see.\n\n{block}\n{block}\nDone <tool_call> now\n")
    assert reply.content == "Let me see.Done <tool_call> now\n"
    assert calls_of(reply) == [("f", {"a": 1})] * 2


NO_CALLS = [
    ("hermes", '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": }}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": NaN}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": "1"}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": 3}\n</tool_call>'),
    ("hermes", "<tool_call>" + '{"a":' * 100000),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": 1'),
    ("hermes", "<tool_call>" * 3),
    ("llama3", '{"name": "Bob", "age": 3}'),
    ("llama3", 'The answer: {"name": "f", "parameters": {}}'),
    ("llama3", '<|python_tag|>search.call(query="x")'),
    ("mistral", "[TOOL_CALLS] none"),
    ("mistral", "[TOOL_CALLS]" + "x" * 1000 + "[ARGS]{}"),
    ("mistral_arguments", "[TOOL_CALLS]f[ARGS]1"),
]


@pytest.mark.parametrize(("name", "text"), NO_CALLS, ids=lambda value: value[:40])
def test_what_is_no_call_is_content(name: str, text: str) -> None:
    parser = make_parser(name)
    assert parse(parser, [text]) == Reply(content=text)
    assert not parser.ends_in_calls


LENIENT = [
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}, "id": "}"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}}'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}}\n</tool'),
    ("llama3", '{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}'),
    ("llama3", ' {"name":"f","parameters":{"a":1}}\n'),
    ("mistral", "[TOOL_CALLS]f[CALL_ID]abcdefgh9[ARGS] {\"a\": 1}"),
    ("mistral", '[TOOL_CALLS]f{"a": 1}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), LENIENT)
def test_variants_are_understood(name: str, text: str) -> None:
    parser = make_parser(name)
    reply = parse(parser, text)
    assert (reply.content, calls_of(reply)) == ("", [("f", {"a": 1})])
    assert parser.ends_in_calls


def test_call_without_arguments() -> None:
    reply = parse(make_parser("hermes"), ['<tool_call>{"name": "f"}</tool_call>'])
    assert calls_of(reply) == [("f", {})]


def test_arguments_that_cannot_be_encoded_stay_escaped() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>'
    late = '<tool_call>{"arguments": {"a": "\\ud800"}, "name": "f"}</tool_call>'
    for reply in (parse(make_parser("hermes"), [text]), parse(make_parser("hermes"), [late])):
        assert reply.calls[0].arguments.encode() == b'{"a": "\\ud800"}'


def test_calls_beyond_the_most_are_content() -> None:
    block = write_hermes([("f", {})])
    reply = parse(make_parser("hermes", max_calls=1), [block + "\n" + block])
    assert calls_of(reply) == [("f", {})]
    assert reply.content == block


def test_eager_arguments_come_as_they_are_written() -> None:
    parser = make_parser("hermes", is_eager=True)
    text = write_hermes([("f", {"a": "long"})])
    end = text.index("ng")
    reply = fold(parser.feed(text[:end]))
    assert reply.calls[0].arguments == '{"a": "lo'
    assert not parser.ends_in_calls
    fold_rest = parser.finish()
    assert fold_rest == [] and not parser.ends_in_calls, "a call that was cut is no call"


def test_other_calls_wait_until_they_are_complete() -> None:
    parser = make_parser("hermes")
    text = write_hermes([("f", {"a": 1})])
    assert all(parser.feed(character) == [] for character in text[: text.index("}")])


def test_plain_text_is_not_held_back() -> None:
    parser = make_parser("hermes")
    assert parser.feed("Hello") == [Content("Hello")]
    assert parser.feed(" <b> <tool") == [Content(" <b>")]
    assert parser.feed("box>") == [Content(" <toolbox>")]


@pytest.mark.parametrize(
    ("text", "in_reasoning", "expected"),
    [
        ("<think>a</think>b", False, Reply("b", "a")),
        ("\n<think>\n a \n</think>\n\nb\n", False, Reply("b\n", "a")),
        ("a</think>\n\nb", True, Reply("b", "a")),
        ("\na <think> b", True, Reply("", "a <think> b")),
        ("a <think>b</think>", False, Reply("a <think>b</think>")),
        ("<think>\n\n</think>\n\nb", False, Reply("b")),
        ("<think>a</think><tool_call>x", False, Reply("<tool_call>x", "a")),
        ("<thi", False, Reply("<thi")),
        ("  ", False, Reply("  ")),
    ],
)
def test_reasoning(text: str, in_reasoning: bool, expected: Reply) -> None:
    for pieces in ([text], list(text)):
        assert parse(make_parser("hermes", in_reasoning=in_reasoning), pieces) == expected


def test_calls_are_not_looked_for_in_reasoning() -> None:
    block = write_hermes([("f", {})])
    parser = make_parser("hermes", in_reasoning=True)
    assert parser.feed(f"I could {block} </think>") == [Reasoning(f"I could {block}")]
