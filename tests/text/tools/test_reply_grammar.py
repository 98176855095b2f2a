"""Oracle: llguidance itself. What its grammars allow must be what the parser understands."""

import json
import random
from dataclasses import replace
from functools import cache
from typing import Any

import numpy
import pytest
import tokenizers
from llguidance import LLMatcher, LLTokenizer

from headrace.errors import ToolError
from headrace.text.chat_format import ChatFormat
from headrace.text.reasoning import ReasoningMarkers
from headrace.text.reply_events import Reply, fold
from headrace.text.tools.registry import FORMATS
from headrace.text.tools.toolset import Tool, ToolSet
from headrace.types import Grammar

THINK = ReasoningMarkers("<think>", "</think>")
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8, "description": "see https://x.org // y"},
        "days": {"type": "array", "items": {"$ref": "#/$defs/day"}, "maxItems": 2},
    },
    "required": ["city", "days"],
    "$defs": {"day": {"enum": [1, 2]}},
}
TOOLS = [
    Tool(name="get_weather", parameters=WEATHER, definition={}),
    Tool(name="now", definition={}),
]
MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>",
           "<think>", "</think>")  # fmt: skip


@cache
def vocabulary(with_markers: bool, special: bool) -> tuple[tokenizers.Tokenizer, LLTokenizer]:
    """One token per byte, an end token, and perhaps one for each marker."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    if with_markers:
        backend.add_tokens([tokenizers.AddedToken(m, special=special) for m in MARKERS])
    return backend, LLTokenizer(backend.to_str(), eos_token=backend.token_to_id("<eos>"))


@pytest.fixture(params=["bytes", "added", "special"])
def tokens(request: Any) -> tuple[tokenizers.Tokenizer, LLTokenizer]:
    return vocabulary(request.param != "bytes", request.param == "special")


def chat_format(name: str, backend: tokenizers.Tokenizer) -> ChatFormat:
    ids = {m: i for m in MARKERS if (i := backend.token_to_id(m)) is not None}
    return ChatFormat(tools=FORMATS[name], renders_tools=True, reasoning=THINK, token_ids=ids)


def matcher(
    name: str,
    tokens: Any,
    *,
    answer: Grammar | None = None,
    in_reasoning: bool = False,
    **fields: Any,
) -> LLMatcher | None:
    tool_set = ToolSet(**({"tools": TOOLS, "callable": TOOLS} | fields))
    grammar = chat_format(name, tokens[0]).grammar(tool_set, answer, in_reasoning=in_reasoning)
    if grammar is None:
        return None
    assert grammar.kind == "lark"
    made = LLMatcher(tokens[1], grammar.source)
    assert not made.is_error(), made.get_error()
    return made


def allows(name: str, tokens: Any, text: str, **fields: Any) -> bool:
    made = matcher(name, tokens, **fields)
    assert made is not None
    ids = tokens[0].encode(text, add_special_tokens=False).ids
    return bool(made.try_consume_tokens(ids) == len(ids) and made.is_accepting())


CALL = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": GIVEN}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": "get_weather", "arguments": GIVEN}]',
    "mistral_arguments": "[TOOL_CALLS]get_weather[ARGS]GIVEN",
    "llama3": '{"name": "get_weather", "parameters": GIVEN}',
}
GOOD = {name: text.replace("GIVEN", '{"city": "Oslo", "days": [1]}') for name, text in CALL.items()}
BAD = {name: text.replace("GIVEN", '{"city": 3}') for name, text in CALL.items()}
WITH_MARKER = sorted(CALL.keys() - {"llama3"})


@pytest.mark.parametrize("name", sorted(CALL))
def test_required_calls(name: str, tokens: Any) -> None:
    good, bad = GOOD[name], BAD[name]
    assert allows(name, tokens, good, is_required=True)
    assert allows(name, tokens, f"<think>Hm</think>\n\n{good}", is_required=True)
    assert allows(name, tokens, f"Hm</think>\n\n{good}", is_required=True, in_reasoning=True)
    for text in (bad, "Hello", f"{good} and", f"Hello {good}"):
        assert not allows(name, tokens, text, is_required=True)


@pytest.mark.parametrize("name", WITH_MARKER)
def test_calls_that_are_allowed(name: str, tokens: Any) -> None:
    good, bad = GOOD[name], BAD[name]
    for text in ("Hello", "", '{"a": 1}\n', good, f"Well:\n{good}", f"<think>Hm</think>\n{good}"):
        assert allows(name, tokens, text)
    for text in (bad, f"Well:\n{bad}", f"<think>Hm</think>\n{bad}"):
        assert not allows(name, tokens, text)
    assert allows(name, tokens, f"Hm</think>\n{good}", in_reasoning=True)
    assert not allows(name, tokens, f"Hm</think>\n{bad}", in_reasoning=True)


def test_free_text_and_bare_calls_begin_alike(tokens: Any) -> None:
    assert matcher("llama3", tokens) is None


@pytest.mark.parametrize("name", sorted(CALL))
def test_parallel_calls(name: str, tokens: Any) -> None:
    separator = FORMATS[name].separator
    one = GOOD[name]
    two = one.removesuffix(FORMATS[name].closing) + separator
    two += one.removeprefix(FORMATS[name].marker + FORMATS[name].opening)
    assert allows(name, tokens, two, is_required=True)
    assert not allows(name, tokens, two, is_required=True, is_parallel=False)
    assert allows(name, tokens, one, is_required=True, is_parallel=False)


def test_named_tool(tokens: Any) -> None:
    for name, good in GOOD.items():
        assert not allows(name, tokens, good, callable=TOOLS[1:], is_required=True)


def test_unknown_keywords_are_passed_over_unless_strict(tokens: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    for is_strict in (False, True):
        tools = [Tool(name="f", parameters=schema, is_strict=is_strict, definition={})]
        tool_set = ToolSet(tools=tools, callable=tools, is_required=True)
        grammar = chat_format("hermes", tokens[0]).grammar(tool_set, None, in_reasoning=False)
        assert grammar is not None
        assert LLMatcher(tokens[1], grammar.source).is_error() == is_strict


ANSWERS = [
    (Grammar(kind="json", source='{"enum": [{"a": [1, 2]}]}'), '{"a": [1, 2]}'),
    (Grammar(kind="regex", source=r"a/b\/\w\n"), "a/b/c\n"),
]


@pytest.mark.parametrize(("answer", "text"), ANSWERS)
@pytest.mark.parametrize("name", sorted(CALL))
def test_answers_of_a_form_or_calls(name: str, tokens: Any, answer: Grammar, text: str) -> None:
    marker = FORMATS[name].marker  # calls cannot do without it here
    call = marker + GOOD[name].removeprefix(marker)
    for reply in (text, call, f"<think>Hm</think>\n\n{text}"):
        assert allows(name, tokens, reply, answer=answer)
    assert allows(name, tokens, f"Hm</think>\n{text}", answer=answer, in_reasoning=True)
    for reply in ("Hello", BAD[name], f"{text}{text}"):
        assert not allows(name, tokens, reply, answer=answer)


def test_answers_in_lark_cannot_be_mixed_with_calls(tokens: Any) -> None:
    with pytest.raises(ToolError, match="mutually exclusive"):
        matcher("hermes", tokens, answer=Grammar(kind="lark", source='start: "a"'))


def test_reasoning_before_an_answer(tokens: Any) -> None:
    answer = Grammar(kind="json", source="true")
    grammar = chat_format("hermes", tokens[0]).grammar(None, answer, in_reasoning=True)
    assert grammar is not None
    made = LLMatcher(tokens[1], grammar.source)
    ids = tokens[0].encode('So: {</think>\n[1, {"a": null}]', add_special_tokens=False).ids
    assert made.try_consume_tokens(ids) == len(ids) and made.is_accepting()


BUDGETED = [None, Grammar(kind="json", source='{"enum": [7]}')]


@pytest.mark.parametrize("in_reasoning", [False, True])
@pytest.mark.parametrize("with_tools", [False, True])
@pytest.mark.parametrize("answer", BUDGETED, ids=["free", "json"])
@pytest.mark.parametrize("special", [False, True])
def test_reasoning_ends_when_its_budget_is_spent(
    special: bool, answer: Grammar | None, with_tools: bool, in_reasoning: bool
) -> None:
    tokens = vocabulary(True, special)
    tool_set = ToolSet(tools=TOOLS, callable=TOOLS) if with_tools else None
    grammar = chat_format("hermes", tokens[0]).grammar(
        tool_set, answer, in_reasoning=in_reasoning, reasoning_budget=24
    )
    assert grammar is not None
    opening = "" if in_reasoning else "<think>"

    def num_allowed(text: str) -> tuple[int, int]:
        ids = tokens[0].encode(opening + text, add_special_tokens=False).ids
        return LLMatcher(tokens[1], grammar.source).try_consume_tokens(ids), len(ids)

    taken, whole = num_allowed("Short</think>\n7")
    assert taken == whole
    taken, whole = num_allowed("z" * 24 + "</think>\n7")
    assert taken == whole
    taken, whole = num_allowed("z" * 40 + "</think>\n7")
    assert taken < whole


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_counts_for_copies(seed: int) -> None:
    """Drafts are followed on a copy: its masks are those of the matcher that comes after it."""
    tokens = vocabulary(True, True)
    grammar = chat_format("hermes", tokens[0]).grammar(
        None, None, in_reasoning=True, reasoning_budget=20
    )
    assert grammar is not None
    made, plain = (LLMatcher(tokens[1], grammar.source) for _ in range(2))
    choose = random.Random(seed)
    for _ in range(40):
        made = made.deep_copy()
        assert made.compute_logit_bias() == plain.compute_logit_bias()
        mask = numpy.frombuffer(plain.compute_logit_bias(), dtype=numpy.uint8)
        token = choose.choice(numpy.flatnonzero(mask).tolist())
        assert made.consume_token(token) and plain.consume_token(token)
        if plain.is_stopped():
            break


def sample(made: LLMatcher, tokens: Any, seed: int) -> str:
    """A random text that the grammar allows, decoded with all special tokens."""
    backend, vocab = tokens
    assert not made.is_error(), made.get_error()
    choose, ids = random.Random(seed), []
    while not made.is_stopped():
        mask = numpy.frombuffer(made.compute_logit_bias(), dtype=numpy.uint8)
        allowed = numpy.flatnonzero(mask).tolist()
        likely = [i for i in allowed if i == vocab.eos_token] if made.is_accepting() else []
        token = choose.choice(likely or allowed)
        assert made.consume_token(token)
        if token != vocab.eos_token:
            ids.append(token)
    return "".join(backend.decode([i], skip_special_tokens=False) for i in ids)


def reply_of(name: str, tokens: Any, text: str, tool_set: ToolSet) -> tuple[Reply, bool]:
    parser = chat_format(name, tokens[0]).parser(
        tool_set, separates_reasoning=True, in_reasoning=False, is_constrained=True
    )
    events = [event for character in text for event in parser.feed(character)]
    return fold(events + parser.finish()), parser.ends_in_calls


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", sorted(CALL))
def test_whatever_the_grammar_allows_is_understood(name: str, tokens: Any, seed: int) -> None:
    tool_set = ToolSet(tools=TOOLS, callable=TOOLS, is_required=True)
    calls_only = replace(chat_format(name, tokens[0]), reasoning=None)
    grammar = calls_only.grammar(tool_set, None, in_reasoning=False)
    assert grammar is not None
    text = sample(LLMatcher(tokens[1], grammar.source), tokens, seed)
    reply, ends_in_calls = reply_of(name, tokens, text, tool_set)
    assert ends_in_calls and reply.calls and reply.content == "", text
    for call in reply.calls:
        arguments = json.loads(call.arguments)
        assert set(arguments) == ({"city", "days"} if call.name == "get_weather" else set())
        assert all(day in (1, 2) for day in arguments.get("days", []))
