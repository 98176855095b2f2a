import json
import re

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.constraint import Constraint
from headrace.engine.grammar import MAX_SOURCE_BYTES, GrammarCompiler
from headrace.engine.speculation.habits import Habits
from headrace.errors import ValidationError
from headrace.types import Grammar
from tests.engine.vocabulary import EOS, ByteVocabulary

COMPILER = GrammarCompiler(ByteVocabulary, 300)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "bc"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def constraint_of(kind: str, source: str, output: bytes = b"") -> Constraint:
    """Its later masks are computed at once."""
    matcher = COMPILER.matcher(Grammar(kind=kind, source=source))
    return Constraint(matcher, list(output), lambda job: job(), Habits())


def allowed(constraint: Constraint) -> set[int]:
    assert len(constraint.masks(0)) == 40  # 300 bits in words of 32
    number = int.from_bytes(constraint.masks(0), "little")
    return {token for token in range(320) if number >> token & 1}


def generate(constraint: Constraint, choices: st.DataObject) -> bytes:
    output = b""
    while (tokens := sorted(allowed(constraint))) != [EOS]:
        token = choices.draw(st.sampled_from(tokens))
        if token == EOS:
            break
        output += bytes([token])
        constraint.accept([token], [], 1.0)
    return output


@settings(max_examples=40)
@given(st.data())
def test_whatever_is_chosen_satisfies_the_schema(choices: st.DataObject) -> None:
    text = generate(constraint_of("json", json.dumps(PERSON)), choices)
    jsonschema.validate(json.loads(text), PERSON)


@settings(max_examples=20)
@given(st.data())
def test_whatever_is_chosen_matches_the_regex(choices: st.DataObject) -> None:
    text = generate(constraint_of("regex", "(ab|[0-9]{2,4})-x?"), choices)
    assert re.fullmatch(rb"(ab|[0-9]{2,4})-x?", text)


def test_lark() -> None:
    constraint = constraint_of("lark", 'start: "a" start "b" | "c"')
    assert allowed(constraint) == {*b"ac"}
    constraint.accept([*b"aacb"], [], 1.0)
    assert allowed(constraint) == {*b"b"}


def test_the_end_is_where_the_grammar_allows_it() -> None:
    constraint = constraint_of("regex", "a+")
    assert EOS not in allowed(constraint)
    constraint.accept([*b"aa"], [], 1.0)
    assert allowed(constraint) == {*b"a", EOS}


def test_a_resumed_request_goes_on_where_it_was() -> None:
    fresh = constraint_of("json", json.dumps(PERSON))
    fresh.accept([*b'{"name"'], [], 1.0)
    fresh.accept([*b': "x'], [], 1.0)
    resumed = constraint_of("json", json.dumps(PERSON), b'{"name": "x')
    assert allowed(resumed) == allowed(fresh)


def test_requests_do_not_share_their_place() -> None:
    first, second = (constraint_of("regex", "ab") for _ in range(2))
    first.accept([*b"a"], [], 1.0)
    assert (allowed(first), allowed(second)) == ({*b"b"}, {*b"a"})


@settings(max_examples=20)
@given(st.data())
def test_json_is_spaced_as_by_json_dumps(choices: st.DataObject) -> None:
    schema = {**PERSON, "properties": {**PERSON["properties"], "name": {"enum": ["Ada"]}}}
    text = generate(constraint_of("json", json.dumps(schema)), choices).decode()
    assert text == json.dumps(json.loads(text))


def test_a_schema_may_ask_for_another_spacing() -> None:
    schema = {"type": "object", "x-guidance": {"whitespace_flexible": True}}
    constraint = constraint_of("json", json.dumps(schema), b"{")
    assert allowed(constraint) >= {*b" \n"}


NESTED = '{"items":' * 3000 + "{}" + "}" * 3000


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        ("regex", "(a", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("lark", "start: x", "unknown name"),
        ("lark", "start: " + "(" * 20000 + '"a"' + ")" * 20000, "too deeply nested"),
        ("json", "{", "Expecting property name"),
        ("json", NESTED, "nested too deeply"),
        ("json", '{"type": "array", "uniqueItems": true}', 'Unimplemented keys: \\["uniqueItems"'),
        ("json", '{"uniqueItems": true, "x-guidance": {"lenient": true}}', "uniqueItems"),
        ("json", '{"type": "string", "format": "nonsense"}', "nonsense"),
        ("json", '{"type": "strin"}', "Invalid type"),
        ("json", '{"properties": 3}', "must be an object"),
        ("json", "false", ""),
        ("regex", "a" * (MAX_SOURCE_BYTES + 1), f"longer than {MAX_SOURCE_BYTES} bytes"),
        ("regex", "((a{1000}){1000}){1000}", ""),
    ],
    ids=lambda value: value[:30],
)
def test_what_cannot_be_followed_is_refused(kind: str, source: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=f"^grammar is not valid: (.|\n)*{reason}"):
        constraint_of(kind, source)


def test_an_ambiguous_grammar_ends_in_an_error() -> None:
    source = 'start: x x x x x x\nx: x x | y y | "a" |\ny: x y x | y x y | "b" |'
    constraint = constraint_of("lark", source)
    with pytest.raises(ValidationError, match="grammar is not valid"):
        for _ in range(500):
            constraint.accept([*b"a"], [], 1.0)
    assert not constraint.is_ready


def test_computing_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.engine.constraint.INITIAL_SECONDS", 0.0)
    monkeypatch.setattr("headrace.engine.constraint.SECONDS_PER_TOKEN", 0.0)
    with pytest.raises(ValidationError, match="too long to follow"):
        constraint_of("regex", "a")


def looking_ahead(source: str, output: bytes = b"", max_lookahead: int = 8) -> Constraint:
    matcher = COMPILER.matcher(Grammar(kind="regex", source=source))
    return Constraint(matcher, list(output), lambda job: job(), Habits(), max_lookahead)


def test_what_must_come_is_known_ahead() -> None:
    constraint = looking_ahead("(yes|no)[.]")
    assert (constraint.draft_ids, constraint.num_forced) == ([], 0)
    constraint.accept([*b"y"], [], 1.0)
    assert constraint.draft_ids == [*b"es.", EOS]
    assert constraint.num_forced == 4
    assert looking_ahead("(yes|no)[.]", b"y", max_lookahead=2).draft_ids == [*b"es"]
    assert looking_ahead("(yes|no)[.]", b"y", max_lookahead=0).draft_ids == []


@pytest.mark.parametrize(
    ("proposed", "drafts"),
    [
        (b"3-45", b"3-45"),  # the dash is forced
        (b"3+45", b"3-"),  # and what was proposed behind another does not count
        (b"", b""),
        (b"x", b""),
        (b"3-4x", b"3-4"),
    ],
)
def test_proposed_tokens_are_taken_as_far_as_they_are_allowed(
    proposed: bytes, drafts: bytes
) -> None:
    source = "[0-9]{2}-[0-9]{4}"
    constraint = looking_ahead(source, b"1")
    constraint.accept([], list(proposed), 1.0)
    assert (bytes(constraint.draft_ids), constraint.num_forced) == (drafts, 0)
    for count in range(len(drafts) + 1):
        masks = [allowed(looking_ahead(source, b"1" + drafts[:i])) for i in range(count + 1)]
        words = constraint.masks(count)
        numbers = [int.from_bytes(words[i : i + 40], "little") for i in range(0, len(words), 40)]
        assert numbers == [sum(1 << token for token in mask) for mask in masks]
    constraint.accept([*b"9-"], [], 1.0)  # nothing of the drafts is left behind
    assert allowed(constraint) == {*b"0123456789"}


def test_jumping_forward_keeps_the_drafts_behind() -> None:
    constraint = looking_ahead("a-[0-9]{3}", b"a")
    constraint.accept([], [*b"-12"], 1.0)
    assert (constraint.draft_ids, constraint.num_forced) == ([*b"-12"], 1)
    assert constraint.jump_forward() == [*b"-"]
    assert (constraint.draft_ids, constraint.num_forced) == ([*b"12"], 0)
    assert allowed(constraint) == {*b"0123456789"}
    constraint.accept([*b"77"], [], 1.0)
    constraint.accept([*b"7"], [], 1.0)
    assert allowed(constraint) == {EOS}


def test_looking_ahead_never_ends_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is another account, and when that is empty there are just no drafts."""
    constraint = looking_ahead("[a-z]{2}-{40}[a-z]{9}")
    monkeypatch.setattr("headrace.engine.constraint.SECONDS_PER_TOKEN", 0.0)
    constraint._lookahead_seconds_left = 1e-9
    constraint.accept([*b"ab"], [], 1.0)
    assert constraint.num_forced == 8
    constraint.accept([*b"-"], [], 1.0)
    assert (constraint.is_ready, constraint.draft_ids) == (True, [])


def test_the_vocabulary_is_loaded_with_the_first_grammar_only() -> None:
    loaded: list[ByteVocabulary] = []

    def load() -> ByteVocabulary:
        loaded.append(ByteVocabulary())
        return loaded[-1]

    compiler = GrammarCompiler(load, 300)
    assert not loaded
    compiler.matcher(Grammar(kind="regex", source="a"))
    compiler.matcher(Grammar(kind="regex", source="b"))
    assert len(loaded) == 1


def test_without_an_end_of_sequence_token_there_are_no_grammars() -> None:
    class Endless(ByteVocabulary):
        eos_token_ids = ()  # type: ignore[assignment]

    with pytest.raises(ValidationError, match="no end-of-sequence token"):
        GrammarCompiler(Endless, 300).matcher(Grammar(kind="regex", source="a"))
