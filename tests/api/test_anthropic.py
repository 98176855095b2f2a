"""Anthropic's routes, through the official client."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import orjson
import pytest

from headrace.errors import GenerationError, OverloadedError, TemplateError
from headrace.types import FinishReason
from tests.api.conftest import AppOf, client_of
from tests.api.fake_frontend import FakeFrontend
from tests.api.live_server import server_at
from tests.api.replies import ARGUMENTS, CALLS, SCHEMA, THINK, say

QUESTION: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def url(app_of: AppOf) -> AsyncIterator[str]:
    """A real server: the client comes with an HTTP library of its own."""
    async with server_at(app_of(api_key="key")) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def official(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="key", max_retries=0) as client:
        yield client


async def test_message(official: anthropic.AsyncAnthropic, frontend: FakeFrontend) -> None:
    message = await official.messages.create(
        model="claude-x",
        max_tokens=9,
        system=[{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": "Well"},
        ],
        stop_sequences=["END"],
        metadata={"user_id": "me"},
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 4},
    )
    assert (message.type, message.role, message.model) == ("message", "assistant", "claude-x")
    assert message.id.startswith("msg_")
    assert [block.to_dict() for block in message.content] == [
        {"type": "text", "text": "Hello big world"}
    ]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (1, 1, 3)
    assert frontend.rendered == [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "Well"},
        ]
    ]
    (request,) = frontend.requests
    assert (request.max_new_tokens, request.temperature, request.top_p) == (9, 0.5, 0.9)
    assert (request.top_k, request.stop, request.keep_stop_text) == (4, ("END",), False)


@pytest.mark.parametrize(
    ("reason", "stop", "expected"),
    [
        (FinishReason.LENGTH, None, ("max_tokens", None)),
        (FinishReason.STOP_SEQUENCE, "END", ("stop_sequence", "END")),
    ],
)
async def test_stop_reason(
    official: anthropic.AsyncAnthropic,
    frontend: FakeFrontend,
    reason: FinishReason,
    stop: str | None,
    expected: tuple[str, str | None],
) -> None:
    frontend.reason, frontend.stop = reason, stop
    message = await official.messages.create(model="m", max_tokens=3, messages=QUESTION)
    assert (message.stop_reason, message.stop_sequence) == expected


async def test_stream_is_the_whole(official: anthropic.AsyncAnthropic) -> None:
    whole = await official.messages.create(model="m", max_tokens=3, messages=QUESTION)
    async with official.messages.stream(model="m", max_tokens=3, messages=QUESTION) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert texts == ["Hello", " big", " world"]
    pair = [each.to_dict(exclude_none=True) | {"id": ""} for each in (message, whole)]
    assert pair[0] == pair[1]


async def test_events_in_order(client: httpx.AsyncClient) -> None:
    body = {"model": "m", "max_tokens": 3, "messages": QUESTION, "stream": True}
    response = await client.post("/v1/messages", json=body)
    assert response.headers["content-type"] == "text/event-stream"
    events = [event.split(b"\n") for event in response.content.split(b"\n\n")[:-1]]
    names = [name.decode().removeprefix("event: ") for name, _ in events]
    assert names == [
        "message_start", "ping", "content_block_start", *["content_block_delta"] * 3,
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    data = [orjson.loads(data.removeprefix(b"data: ")) for _, data in events]
    assert [event["type"] for event in data] == names
    assert data[0]["message"]["content"] == [] and data[0]["message"]["stop_reason"] is None
    assert data[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {
            "input_tokens": 1,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 1,
            "output_tokens": 3,
        },
    }


async def test_count_tokens(official: anthropic.AsyncAnthropic) -> None:
    count = await official.messages.count_tokens(model="m", system="Be", messages=QUESTION)
    assert count.input_tokens == len("<system>Be<user>hi")


@pytest.mark.parametrize(
    ("error", "expected", "kind"),
    [
        (TemplateError("x"), anthropic.BadRequestError, "invalid_request_error"),
        (OverloadedError(), anthropic.OverloadedError, "overloaded_error"),
        (GenerationError("x"), anthropic.InternalServerError, "api_error"),
    ],
)
async def test_errors(
    official: anthropic.AsyncAnthropic,
    frontend: FakeFrontend,
    error: Exception,
    expected: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    frontend.error = error
    with pytest.raises(expected) as caught:
        await official.messages.create(model="m", max_tokens=3, messages=QUESTION)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", kind)


async def test_error_inside_a_stream(
    official: anthropic.AsyncAnthropic, frontend: FakeFrontend
) -> None:
    frontend.error, frontend.fails_after = GenerationError("broken"), 1
    stream = await official.messages.create(model="m", max_tokens=3, messages=QUESTION, stream=True)
    with pytest.raises(anthropic.APIStatusError, match="broken"):
        async for _ in stream:
            pass


async def test_wrong_key(url: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="no", max_retries=0) as official:
        with pytest.raises(anthropic.AuthenticationError):
            await official.messages.create(model="m", max_tokens=3, messages=QUESTION)


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "`messages` must not be empty"),
        ({"messages": [{"role": "tool", "content": ""}]}, "role"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, r"messages\[0\].content"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "`input`"),
        ({"tools": [{"type": "web_search_20250305", "name": "f"}]}, r"tools\[0\].type"),
        ({"tools": [{"name": "f g", "input_schema": {}}]}, r"tools\[0\].name"),
        ({"tool_choice": {"type": "any"}}, "`tool_choice` needs `tools`"),
        ({"tool_choice": {"type": "tool"}}, "`tool_choice` with .* needs a `name`"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "`thinking` is not supported"),
        ({"output_config": {"effort": "low"}}, "`reasoning_effort` is not supported"),
        ({"extra_body": {"container": "x"}}, "`container` is not supported"),
        ({"extra_body": {"top_p": 2.0}}, "`top_p`"),
    ],
)
async def test_refused_by_name(
    official: anthropic.AsyncAnthropic, fields: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"model": "m", "max_tokens": 3, "messages": QUESTION} | fields
    with pytest.raises(anthropic.BadRequestError, match=message):
        await official.messages.create(**given)


async def test_tgi_conventions_leave_it_alone(app_of: AppOf, frontend: FakeFrontend) -> None:
    async with client_of(app_of(tgi_compat=True)) as http:
        body = {"model": "m", "max_tokens": 3, "messages": QUESTION}
        assert (await http.post("/v1/messages", json=body)).status_code == 200
    assert not frontend.requests[0].keep_stop_text


TOOLS: Any = [
    {"name": "weather", "description": "Now", "input_schema": SCHEMA},
    {"name": "now", "input_schema": {"type": "object"}},
]


async def test_tool_use(official: anthropic.AsyncAnthropic, frontend: FakeFrontend) -> None:
    say(frontend, "Let me see.\n" + CALLS)
    fields: Any = {"model": "m", "max_tokens": 99, "messages": QUESTION, "tools": TOOLS}
    whole = await official.messages.create(**fields)
    text, *calls = whole.content
    assert text.to_dict() == {"type": "text", "text": "Let me see."}
    assert [(c.type, c.name, c.input) for c in calls] == [  # type: ignore[union-attr]
        ("tool_use", "weather", json.loads(ARGUMENTS)), ("tool_use", "now", {}),
    ]  # fmt: skip
    assert whole.stop_reason == "tool_use"
    assert frontend.tools == [
        [
            {"type": "function",
             "function": {"name": "weather", "description": "Now", "parameters": SCHEMA}},
            {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
        ]
    ]  # fmt: skip
    async with official.messages.stream(**fields) as stream:
        pieces = [event async for event in stream if event.type == "input_json"]
        streamed = await stream.get_final_message()
    assert len(pieces) > 8, "arguments come in pieces"
    assert streamed.stop_reason == "tool_use"
    assert [_anonymous(block) for block in streamed.content] == list(map(_anonymous, whole.content))


def _anonymous(block: Any) -> dict[str, Any]:
    return {k: v for k, v in block.to_dict(exclude_none=True).items() if k != "id"}


async def test_a_call_cut_by_length(
    official: anthropic.AsyncAnthropic, frontend: FakeFrontend
) -> None:
    say(frontend, CALLS[:70])
    frontend.reason = FinishReason.LENGTH
    fields: Any = {"model": "m", "max_tokens": 99, "messages": QUESTION, "tools": TOOLS}
    whole = await official.messages.create(**fields)
    assert whole.stop_reason == "max_tokens"
    assert whole.content[0].to_dict()["type"] == "tool_use"


@pytest.mark.parametrize(
    ("choice", "names", "is_required"),
    [
        ({"type": "auto"}, {"weather", "now"}, False),
        ({"type": "any", "disable_parallel_tool_use": True}, {"weather", "now"}, True),
        ({"type": "tool", "name": "now"}, {"now"}, True),
        ({"type": "none"}, set(), False),
    ],
)
async def test_tool_choice(
    official: anthropic.AsyncAnthropic,
    frontend: FakeFrontend,
    choice: Any,
    names: set[str],
    is_required: bool,
) -> None:
    say(frontend, CALLS)
    message = await official.messages.create(
        model="m", max_tokens=99, messages=QUESTION, tools=TOOLS, tool_choice=choice
    )
    (request,) = frontend.requests
    source = "" if request.grammar is None else request.grammar.source
    assert {name for name in ("weather", "now") if name in source} == names
    assert (message.stop_reason == "tool_use") == bool(names)
    if choice.get("disable_parallel_tool_use"):
        assert [block.type for block in message.content].count("tool_use") == 1
    if names:
        free = await official.messages.create(
            model="m", max_tokens=99, messages=QUESTION, tools=TOOLS
        )
        assert free.stop_reason == "tool_use"
        auto = frontend.requests[-1].grammar
        assert auto is not None and (auto.source != source) == is_required


async def test_history_of_tools_and_thinking(
    official: anthropic.AsyncAnthropic, frontend: FakeFrontend
) -> None:
    say(frontend, "Fine.")
    use: Any = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    thinking: Any = {"type": "thinking", "thinking": "Hm", "signature": ""}
    result: Any = {"type": "tool_result", "tool_use_id": "toolu_1"}
    messages: Any = [
        *QUESTION,
        {"role": "assistant", "content": [thinking, {"type": "text", "text": "Well."}, use]},
        {"role": "user", "content": [
            result | {"content": [{"type": "text", "text": "Rain"}]},
            result | {"content": "no", "is_error": True},
            {"type": "text", "text": "Now?"},
        ]},
    ]  # fmt: skip
    await official.messages.create(model="m", max_tokens=9, messages=messages, tools=TOOLS)
    function = {"name": "weather", "arguments": {"city": "Oslo"}}
    assert frontend.rendered == [
        [
            *QUESTION,
            {"role": "assistant", "content": "Well.", "reasoning_content": "Hm",
             "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}]},
            {"role": "tool", "content": "Rain", "tool_call_id": "toolu_1"},
            {"role": "tool", "content": '{"error": "no"}', "tool_call_id": "toolu_1"},
            {"role": "user", "content": "Now?"},
        ]
    ]  # fmt: skip


async def test_thinking(official: anthropic.AsyncAnthropic, frontend: FakeFrontend) -> None:
    variables = frozenset({"enable_thinking"})
    say(frontend, "<think>Hm, {</think>Yes.", reasoning=THINK, variables=variables,
        token_ids={"</think>": 9})  # fmt: skip
    fields: Any = {"model": "m", "max_tokens": 2048, "messages": QUESTION,
                   "thinking": {"type": "enabled", "budget_tokens": 1024}}  # fmt: skip
    whole = await official.messages.create(**fields)
    assert [block.to_dict() for block in whole.content] == [
        {"type": "thinking", "thinking": "Hm, {", "signature": ""},
        {"type": "text", "text": "Yes."},
    ]
    async with official.messages.stream(**fields) as stream:
        assert "".join([e.thinking async for e in stream if e.type == "thinking"]) == "Hm, {"
        streamed = await stream.get_final_message()
    assert [_anonymous(block) for block in streamed.content] == list(map(_anonymous, whole.content))
    for request in frontend.requests:
        assert request.grammar is not None and "max_tokens=1024" in request.grammar.source
    with pytest.raises(anthropic.BadRequestError, match="greater than `thinking.budget_tokens`"):
        await official.messages.create(**fields | {"max_tokens": 1024})
    await official.messages.create(**fields | {"thinking": {"type": "disabled"}})
    assert frontend.requests[-1].grammar is None
    assert frontend.variables == [{"enable_thinking": True}] * 2 + [{"enable_thinking": False}]


async def test_output_format(official: anthropic.AsyncAnthropic, frontend: FakeFrontend) -> None:
    await official.messages.create(
        model="m", max_tokens=9, messages=QUESTION,
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )  # fmt: skip
    (request,) = frontend.requests
    assert request.grammar is not None and request.grammar.kind == "json"
    assert json.loads(request.grammar.source) == SCHEMA


async def test_count_tokens_counts_tools(
    official: anthropic.AsyncAnthropic, frontend: FakeFrontend
) -> None:
    plain = await official.messages.count_tokens(model="m", messages=QUESTION)
    with_tools = await official.messages.count_tokens(model="m", messages=QUESTION, tools=TOOLS)
    assert with_tools.input_tokens > plain.input_tokens + len(json.dumps(SCHEMA))
