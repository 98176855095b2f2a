"""Tools and reasoning in chat, through OpenAI's client; replies come token by token."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from headrace.text.tools.registry import FORMATS
from headrace.types import FinishReason
from tests.api.conftest import AppOf, client_of
from tests.api.fake_frontend import FakeFrontend
from tests.api.replies import ARGUMENTS, CALLS, SCHEMA, THINK, say

MESSAGES: Any = [{"role": "user", "content": "What is the weather?"}]
WEATHER = {"type": "function",
           "function": {"name": "weather", "description": "Now", "parameters": SCHEMA}}  # fmt: skip
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS: Any = [WEATHER, NOW]


@pytest.fixture
async def official(app_of: AppOf) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(app_of()) as http:
        yield openai.AsyncOpenAI(
            base_url="http://server/v1", api_key="key", http_client=http, max_retries=0
        )


async def folded(client: openai.AsyncOpenAI, **fields: Any) -> tuple[dict[str, Any], list[Any]]:
    """A stream as one message, put together as clients do, and its chunks."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    chunks = []
    fields = {"model": "tgi", "messages": MESSAGES, "stream": True} | fields
    async for chunk in await client.chat.completions.create(**fields):
        chunks.append(chunk)
        delta = chunk.choices[0].delta
        message["content"] += delta.content or ""
        message["reasoning"] += getattr(delta, "reasoning_content", None) or ""
        for part in delta.tool_calls or ():
            assert part.function is not None
            if part.index == len(message["calls"]):
                assert part.id and part.type == "function" and part.function.name
                message["calls"].append([part.function.name, ""])
            else:
                assert part.id is None and part.function.name is None
            message["calls"][part.index][1] += part.function.arguments or ""
    return message, chunks


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_calls(official: openai.AsyncOpenAI, frontend: FakeFrontend, choice: Any) -> None:
    say(frontend, CALLS)
    answer = await official.chat.completions.create(
        model="tgi", messages=MESSAGES, tools=TOOLS, tool_choice=choice
    )
    message = answer.choices[0].message
    assert message.content is None
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    calls = [call.to_dict() for call in message.tool_calls]
    assert len({call["id"] for call in calls}) == 2
    assert all(re.fullmatch("call_[0-9a-f]{24}", str(call["id"])) for call in calls)
    assert [call["function"] for call in calls] == [
        {"name": "weather", "arguments": ARGUMENTS},
        {"name": "now", "arguments": "{}"},
    ]
    (request,) = frontend.requests
    assert request.grammar is not None and request.grammar.kind == "lark"


@pytest.mark.parametrize("text", ["", "Let me see.\n"])
async def test_streamed_calls(
    official: openai.AsyncOpenAI, frontend: FakeFrontend, text: str
) -> None:
    say(frontend, text + CALLS)
    message, chunks = await folded(official, tools=TOOLS)
    expected = [["weather", ARGUMENTS], ["now", "{}"]]
    assert message == {"content": text.strip(), "reasoning": "", "calls": expected}
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["tool_calls"]
    assert [chunk.choices[0].delta.role for chunk in chunks].count("assistant") == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) > 8, "arguments come in pieces"
    json.loads(message["calls"][0][1])


async def test_logprobs_of_held_tokens_are_sent(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    say(frontend, "See " + CALLS)
    _, chunks = await folded(official, tools=TOOLS, logprobs=True)
    tokens = [
        t.token
        for c in chunks
        if (logprobs := c.choices[0].logprobs)
        for t in logprobs.content or ()
    ]
    assert tokens == list(frontend.words)


async def test_sequences_are_parsed_apart(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    say(frontend, CALLS)
    whole = await official.chat.completions.create(model="tgi", messages=MESSAGES, tools=TOOLS, n=2)
    assert [len(choice.message.tool_calls or ()) for choice in whole.choices] == [2, 2]
    names: dict[int, list[str]] = {0: [], 1: []}
    async for chunk in await official.chat.completions.create(
        model="tgi", messages=MESSAGES, tools=TOOLS, n=2, stream=True
    ):
        for call in chunk.choices[0].delta.tool_calls or ():
            if call.function is not None and call.function.name is not None:
                names[chunk.choices[0].index].append(call.function.name)
    assert names == {0: ["weather", "now"], 1: ["weather", "now"]}


async def test_calls_cut_by_length(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    say(frontend, CALLS[:60])
    frontend.reason = FinishReason.LENGTH
    answer = await official.chat.completions.create(model="tgi", messages=MESSAGES, tools=TOOLS)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.tool_calls is not None


async def test_without_grammars_only_valid_calls_are_calls(
    app_of: AppOf, frontend: FakeFrontend
) -> None:
    say(frontend, CALLS[:60])
    async with client_of(app_of(disable_grammar_support=True)) as http:
        client = openai.AsyncOpenAI(base_url="http://server/v1", api_key="-", http_client=http)
        for text, calls in ((CALLS, 2), (CALLS[:60], 0)):
            say(frontend, text)
            message, chunks = await folded(client, tools=TOOLS)
            assert message["content"] == ("" if calls else text)
            assert len(message["calls"]) == calls
            assert chunks[-1].choices[0].finish_reason == ("tool_calls" if calls else "stop")
            assert frontend.requests[-1].grammar is None
        with pytest.raises(openai.UnprocessableEntityError, match="tool_choice"):
            await folded(client, tools=TOOLS, tool_choice="required")


async def test_text_under_auto_is_text(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    say(frontend, "No tool <is> needed.")
    answer = await official.chat.completions.create(model="tgi", messages=MESSAGES, tools=TOOLS)
    assert answer.choices[0].message.content == "No tool <is> needed."
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert len(frontend.requests) == 1, "one generation"


@pytest.mark.parametrize(
    "choice", [{"type": "function", "function": {"name": "now"}}, "now"], ids=["object", "name"]
)
async def test_named_tool(
    official: openai.AsyncOpenAI, frontend: FakeFrontend, choice: Any
) -> None:
    say(frontend, CALLS)
    await official.chat.completions.create(
        model="tgi", messages=MESSAGES, tools=TOOLS, tool_choice=choice
    )
    grammar = frontend.requests[0].grammar
    assert grammar is not None and "now" in grammar.source and "weather" not in grammar.source
    assert frontend.tools == [TOOLS], "the model sees all tools"


async def test_no_tool(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    say(frontend, CALLS)
    answer = await official.chat.completions.create(
        model="tgi", messages=MESSAGES, tools=TOOLS, tool_choice="none"
    )
    assert answer.choices[0].message.content == CALLS
    assert frontend.tools == [None]
    assert frontend.requests[0].grammar is None


async def test_one_call_at_most(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    say(frontend, CALLS)
    answer = await official.chat.completions.create(
        model="tgi", messages=MESSAGES, tools=TOOLS, parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or ()) == 1
    assert answer.choices[0].message.content == CALLS.split("\n", 3)[3]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": TOOLS, "tool_choice": "dance"}, "tool_error",
     "Tool error: Tool with name dance not found"),
    ({"tools": [NOW, NOW]}, "tool_error", "`tools` has more than one function with name now"),
    ({"tool_choice": "required"}, "tool_error", "`tool_choice` needs `tools`"),
    ({"tools": TOOLS, "tool_choice": "none", "tool_prompt": "x"}, "validation", "`tool_prompt`"),
    ({"chat_template_kwargs": {"messages": []}}, "validation", "`chat_template_kwargs`"),
    ({"reasoning_effort": "low"}, "validation", "`reasoning_effort`"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "", "tools[0].function.name"),
    ({"tools": [{"type": "search"}]}, "", "tools[0].type"),
    ({"tools": {}}, "", "tools"),
    ({"messages": [{"role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}]},
     "validation", "`messages[0].tool_calls[0].function.arguments` must be a JSON object"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "error_type", "message"), REFUSED)
async def test_refused(
    client: httpx.AsyncClient,
    frontend: FakeFrontend,
    fields: dict[str, Any],
    error_type: str,
    message: str,
) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": MESSAGES} | fields)
    assert response.status_code == 422
    assert message in response.json()["error"]["message"]
    assert response.json()["error_type"] == (error_type or "validation")
    assert frontend.requests == []


async def test_messages_reach_the_template_in_its_form(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    say(frontend, "Fine.")
    call = {"id": "call_1", "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}  # fmt: skip
    messages: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain"}]},
    ]
    await official.chat.completions.create(
        model="tgi", messages=messages, tools=TOOLS,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}, "tool_prompt": "Be brief."},
    )  # fmt: skip
    function = {"name": "weather", "arguments": {"city": "Oslo"}}
    assert frontend.rendered == [
        [
            *MESSAGES,
            {"role": "assistant", "content": "", "reasoning_content": "Hm",
             "tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
            {"role": "tool", "content": "Rain\n---\nBe brief.", "tool_call_id": "call_1"},
        ]
    ]  # fmt: skip
    assert frontend.tools == [TOOLS]
    assert frontend.variables == [{"enable_thinking": False}]


@pytest.mark.parametrize("text", ["<think>\nHm, {\n</think>\n\nYes.", "<think>Hm, {</think>Yes."])
async def test_reasoning(official: openai.AsyncOpenAI, frontend: FakeFrontend, text: str) -> None:
    say(frontend, text, reasoning=THINK)
    answer = await official.chat.completions.create(model="tgi", messages=MESSAGES)
    message = answer.choices[0].message.to_dict()
    assert message == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm, {"}
    streamed, chunks = await folded(official)
    assert streamed == {"content": "Yes.", "reasoning": "Hm, {", "calls": []}
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_reasoning_opened_by_the_prompt(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    say(frontend, "Hm.\n</think>\n\n" + CALLS, reasoning=THINK)
    messages: Any = [{"role": "assistant", "content": "<think>\n"}]
    message, _ = await folded(official, messages=messages, tools=TOOLS)
    assert message["reasoning"] == "Hm."
    assert message["content"] == ""
    assert len(message["calls"]) == 2


@pytest.mark.parametrize("by_request", [True, False])
async def test_reasoning_can_stay_in_the_content(
    app_of: AppOf, frontend: FakeFrontend, by_request: bool
) -> None:
    say(frontend, "<think>Hm</think>Yes.", reasoning=THINK)
    body = {"messages": MESSAGES} | ({"separate_reasoning": False} if by_request else {})
    async with client_of(app_of(separate_reasoning=by_request)) as client:
        answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "<think>Hm</think>Yes.",
    }


async def test_markers_that_are_special_tokens_are_shown(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    say(frontend, '[TOOL_CALLS] [{"name": "now", "arguments": {}}]',
        tools=FORMATS["mistral"], token_ids={"[TOOL_CALLS]": 9})  # fmt: skip
    message, _ = await folded(official, tools=TOOLS)
    assert message["calls"] == [["now", "{}"]]
    assert frontend.requests[0].shown_token_ids == {9}


async def test_chat_tokenize_shows_the_tools(
    client: httpx.AsyncClient, frontend: FakeFrontend
) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS}
    text = (await client.post("/chat_tokenize", json=body)).json()["templated_text"]
    assert json.dumps(WEATHER) in text, "a template that knows no tools: they are described"


async def test_reasoning_effort_is_for_templates_that_know_it(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    say(frontend, "Yes.", variables=frozenset({"reasoning_effort"}))
    await official.chat.completions.create(model="tgi", messages=MESSAGES, reasoning_effort="low")
    assert frontend.variables == [{"reasoning_effort": "low"}]
