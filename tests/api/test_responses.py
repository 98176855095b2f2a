"""The Responses API, through the official client."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from headrace.errors import GenerationError
from headrace.types import FinishReason
from tests.api.conftest import AppOf, client_of
from tests.api.fake_frontend import FakeFrontend
from tests.api.replies import ARGUMENTS, CALLS, SCHEMA, THINK, say


@pytest.fixture
async def official(app_of: AppOf) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(app_of()) as http:
        yield openai.AsyncOpenAI(
            base_url="http://server/v1", api_key="key", http_client=http, max_retries=0
        )


async def test_response(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    response = await official.responses.create(
        model="m",
        instructions="Be brief.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "message", "role": "developer", "content": "now"},
        ],
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        metadata={"k": "v"},
        store=False,
    )
    assert response.object == "response" and response.id.startswith("resp_")
    assert (response.status, response.error, response.incomplete_details) == (
        "completed", None, None,
    )  # fmt: skip
    assert response.output_text == "Hello big world"
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (2, 3)
    assert response.usage.input_tokens_details.cached_tokens == 1
    assert (response.temperature, response.top_p, response.metadata) == (0.5, 0.9, {"k": "v"})
    assert frontend.rendered == [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "system", "content": "now"},
        ]
    ]
    (request,) = frontend.requests
    assert (request.max_new_tokens, request.temperature, request.top_p) == (9, 0.5, 0.9)


async def test_answers_can_be_sent_back(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    first = await official.responses.create(model="m", input="hi")
    items: Any = [{"role": "user", "content": "hi"}, *(o.to_dict() for o in first.output)]
    await official.responses.create(model="m", input=items)
    assert frontend.rendered[-1][-1] == {"role": "assistant", "content": "Hello big world"}


async def test_limit_reached(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    frontend.reason = FinishReason.LENGTH
    response = await official.responses.create(model="m", input="hi")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_logprobs(official: openai.AsyncOpenAI) -> None:
    response = await official.responses.create(
        model="m", input="hi", top_logprobs=1, include=["message.output_text.logprobs"]
    )
    part: Any = response.output[0].to_dict()["content"][0]  # type: ignore[index]
    assert [token["logprob"] for token in part["logprobs"]] == [-0.25, -0.5, -0.75]
    assert part["logprobs"][0]["top_logprobs"][0]["token"] == "t0"


async def test_stream_is_the_whole(official: openai.AsyncOpenAI) -> None:
    whole = await official.responses.create(model="m", input="hi")
    stream = await official.responses.create(model="m", input="hi", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", *["response.output_text.delta"] * 3,
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage
    ids = {event.item_id for event in events if hasattr(event, "item_id")}
    assert ids == {last.response.output[0].id}


async def test_helper_for_streams(official: openai.AsyncOpenAI) -> None:
    async with official.responses.stream(model="m", input="hi") as stream:
        final = await stream.get_final_response()
    assert final.output_text == "Hello big world"


async def test_failure_inside_a_stream(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    frontend.error, frontend.fails_after = GenerationError("broken"), 1
    stream = await official.responses.create(model="m", input="hi", stream=True)
    events = [event async for event in stream]
    last: Any = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None and "broken" in last.response.error.message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"store": True}, "`store` is not supported"),
        ({"previous_response_id": "resp_1"}, "`previous_response_id` is not supported"),
        ({"background": True}, "`background` is not supported"),
        ({"input": []}, "`input` must not be empty"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, r"`input\[0\]`"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, r"\[0\].content"),
        ({"input": [{"type": "function_call", "name": "f"}]}, r"`input\[0\]`: a call needs"),
        ({"input": [{"type": "function_call_output"}]}, r"`input\[0\]`: a call's output needs"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "`text.format`"),
        ({"text": {"verbosity": "low"}}, "`verbosity` is not supported"),
        ({"tools": [{"type": "web_search"}]}, r"tools\[0\]"),
        ({"tool_choice": "required"}, "`tool_choice` needs `tools`"),
        ({"reasoning": {"effort": "low"}}, "`reasoning_effort` is not supported"),
        ({"reasoning": {"summary": "detailed"}}, "`summary` is not supported"),
        ({"include": ["file_search_call.results"]}, "`include`"),
        ({"top_logprobs": 2}, "`include`"),
        ({"top_p": 1.5}, "`top_p`"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)  # fmt: skip
async def test_refused_by_name(
    official: openai.AsyncOpenAI, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=message):
        await official.responses.create(**{"model": "m", "input": "hi"} | fields)


TOOLS: Any = [
    {"type": "function", "name": "weather", "description": "Now", "parameters": SCHEMA,
     "strict": True},
    {"type": "function", "name": "now", "parameters": None, "strict": None},
]  # fmt: skip


def _anonymous(item: Any) -> dict[str, Any]:
    return {k: v for k, v in item.to_dict().items() if k not in ("id", "call_id")}


async def test_function_calls(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    say(frontend, "Let me see.\n" + CALLS)
    fields: Any = {"model": "m", "input": "hi", "tools": TOOLS}
    whole = await official.responses.create(**fields)
    assert whole.output_text == "Let me see." and whole.status == "completed"
    assert list(map(_anonymous, whole.output[1:])) == [
        {"type": "function_call", "status": "completed", "name": "weather", "arguments": ARGUMENTS},
        {"type": "function_call", "status": "completed", "name": "now", "arguments": "{}"},
    ]
    async with official.responses.stream(**fields) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == whole.output_text
    for own, other in zip(final.output[1:], whole.output[1:], strict=True):
        assert _anonymous(own).items() >= _anonymous(other).items()
    for item in final.output:
        own: Any = [event for event in events if getattr(event, "item_id", None) == item.id]
        added: Any = [e for e in events if e.type == "response.output_item.added"]
        assert item.id in [event.item.id for event in added]
        if item.type == "function_call":
            *deltas, done = own
            assert done.type == "response.function_call_arguments.done"
            assert "".join(event.delta for event in deltas) == done.arguments == item.arguments
    assert all(e.item.arguments == "" for e in added if e.item.type == "function_call")
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_items_can_be_sent_back(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    say(frontend, "<think>Hm</think>Well." + CALLS, reasoning=THINK)
    first = await official.responses.create(model="m", input="hi", tools=TOOLS)
    reasoning, message, call, _ = first.output
    assert (reasoning.type, message.type, call.type) == ("reasoning", "message", "function_call")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain"}
    items: Any = [{"role": "user", "content": "hi"}, *(o.to_dict() for o in first.output), output]
    await official.responses.create(model="m", input=items, tools=TOOLS)
    function = {"name": "weather", "arguments": json.loads(ARGUMENTS)}
    user, assistant, result = frontend.rendered[-1]
    assert (user["content"], assistant["content"]) == ("hi", "Well.")
    assert assistant["reasoning_content"] == "Hm"
    assert assistant["tool_calls"][0] == {
        "id": call.call_id, "type": "function", "function": function,
    }  # fmt: skip
    assert len(assistant["tool_calls"]) == 2
    assert result == {"role": "tool", "tool_call_id": call.call_id, "content": "Rain"}


@pytest.mark.parametrize(
    ("choice", "names"),
    [("none", set()), ("required", {"weather", "now"}),
     ({"type": "function", "name": "now"}, {"now"})],
)  # fmt: skip
async def test_tool_choice(
    official: openai.AsyncOpenAI, frontend: FakeFrontend, choice: Any, names: set[str]
) -> None:
    say(frontend, CALLS)
    response = await official.responses.create(
        model="m", input="hi", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False
    )
    grammar = frontend.requests[0].grammar
    source = "" if grammar is None else grammar.source
    assert {name for name in ("weather", "now") if name in source} == names
    calls = [item for item in response.output if item.type == "function_call"]
    assert len(calls) == (1 if names else 0)
    assert response.tool_choice == choice or response.tool_choice.to_dict() == choice  # type: ignore[union-attr]
    assert [tool.name for tool in response.tools] == ["weather", "now"]  # type: ignore[union-attr]


async def test_reasoning(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    say(frontend, "<think>Hm, {</think>Yes.", reasoning=THINK,
        variables=frozenset({"reasoning_effort"}))  # fmt: skip
    fields: Any = {"model": "m", "input": "hi", "reasoning": {"effort": "low"},
                   "include": ["message.output_text.logprobs"]}  # fmt: skip
    whole = await official.responses.create(**fields)
    reasoning, message = (item.to_dict() for item in whole.output)
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm, {"}]
    assert whole.output_text == "Yes."
    assert whole.usage is not None
    assert whole.usage.output_tokens_details.reasoning_tokens == 8, "end mark included"
    events = [e async for e in await official.responses.create(**fields, stream=True)]
    deltas: Any = [e for e in events if e.type == "response.reasoning_text.delta"]
    assert "".join(event.delta for event in deltas) == "Hm, {"
    done: Any = next(e for e in events if e.type == "response.reasoning_text.done")
    assert done.text == "Hm, {"
    assert frontend.variables == [{"reasoning_effort": "low"}] * 2
    content: Any = message["content"]
    assert [token["token"] for token in content[0]["logprobs"]][-2:] == ["Yes", "."]


@pytest.mark.parametrize(
    "form", [{"type": "json_object"}, {"type": "json_schema", "name": "x", "schema": SCHEMA}]
)
async def test_text_format(official: openai.AsyncOpenAI, frontend: FakeFrontend, form: Any) -> None:
    response = await official.responses.create(model="m", input="hi", text={"format": form})
    (request,) = frontend.requests
    assert request.grammar is not None
    assert json.loads(request.grammar.source) == form.get("schema", {"type": "object"})
    assert response.text is not None and response.text.format is not None
    assert response.text.format.to_dict(exclude_none=True) == form
