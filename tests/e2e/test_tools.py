"""Tools with the embedded model, which was not trained for them: whatever it says is an answer."""

import json
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

QUESTION: Any = [{"role": "user", "content": "What is the weather in Oslo? Use the tool."}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather now",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


@pytest.fixture(scope="module")
def openai(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)


@pytest.mark.parametrize("seed", range(4))
def test_auto_is_always_an_answer(openai: OpenAI, seed: int) -> None:
    fields: Any = {"model": "tgi", "messages": QUESTION, "tools": TOOLS, "max_tokens": 48,
                   "seed": seed}  # fmt: skip
    choice = openai.chat.completions.create(**fields).choices[0]
    assert choice.message.content or choice.message.tool_calls
    if choice.finish_reason == "tool_calls":
        for call in choice.message.tool_calls or ():
            json.loads(call.function.arguments)  # type: ignore[union-attr]
    content, arguments, reasons = "", "", []
    for chunk in openai.chat.completions.create(**fields, stream=True):
        content += chunk.choices[0].delta.content or ""
        for part in chunk.choices[0].delta.tool_calls or ():
            arguments += part.function.arguments or "" if part.function else ""
        reasons.append(chunk.choices[0].finish_reason)
    assert content == (choice.message.content or "")
    calls = choice.message.tool_calls or ()
    assert arguments == "".join(c.function.arguments for c in calls)  # type: ignore[union-attr]
    assert reasons[-1] == choice.finish_reason and not any(reasons[:-1])


def test_none_is_an_answer_without_tools(openai: OpenAI) -> None:
    fields: Any = {"model": "tgi", "messages": QUESTION, "max_tokens": 16, "temperature": 0}
    with_tools = openai.chat.completions.create(**fields, tools=TOOLS, tool_choice="none")
    without = openai.chat.completions.create(**fields)
    assert with_tools.choices[0].message == without.choices[0].message
    assert with_tools.usage is not None and without.usage is not None
    assert with_tools.usage.prompt_tokens == without.usage.prompt_tokens


def test_history_with_calls(openai: OpenAI) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    messages = [
        *QUESTION,
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "Rain, 7 degrees"},
    ]
    answer = openai.chat.completions.create(
        model="tgi", messages=messages, tools=TOOLS, max_tokens=24, temperature=0
    )
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_required_calls_follow_their_schema(openai: OpenAI, choice: Any, seed: int) -> None:
    answer = openai.chat.completions.create(
        model="tgi", messages=QUESTION, tools=TOOLS, tool_choice=choice, seed=seed, max_tokens=96
    )
    choice = answer.choices[0]
    if choice.finish_reason == "length":
        return
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    for call in choice.message.tool_calls or ():
        arguments = json.loads(call.function.arguments)  # type: ignore[union-attr]
        assert list(arguments) == ["city"] and isinstance(arguments["city"], str)


def _is_city(arguments: Any) -> bool:
    return list(arguments) == ["city"] and isinstance(arguments["city"], str)


def test_responses_call_and_go_on(openai: OpenAI) -> None:
    tools: Any = [{"type": "function", **TOOLS[0]["function"]}]
    fields: Any = {"model": "tgi", "tools": tools, "temperature": 0, "max_output_tokens": 96}
    whole = openai.responses.create(**fields, input=QUESTION, tool_choice="required",
                                    parallel_tool_calls=False)  # fmt: skip
    (call,) = whole.output
    assert call.type == "function_call" and _is_city(json.loads(call.arguments))
    with openai.responses.stream(
        **fields, input=QUESTION, tool_choice="required", parallel_tool_calls=False
    ) as stream:
        deltas = [e.delta for e in stream if e.type == "response.function_call_arguments.delta"]
        (streamed,) = stream.get_final_response().output
    assert len(deltas) > 1 and "".join(deltas) == call.arguments
    assert streamed.type == "function_call" and streamed.arguments == call.arguments
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain"}
    items: Any = [*QUESTION, call.to_dict(), output]
    assert openai.responses.create(**fields, input=items).output


def test_messages_call_and_go_on(server: ServerProcess) -> None:
    anthropic = Anthropic(base_url=server.url, api_key="-", max_retries=0)
    function = TOOLS[0]["function"]
    tool = {"name": function["name"], "description": function["description"],
            "input_schema": function["parameters"]}  # fmt: skip
    choice = {"type": "any", "disable_parallel_tool_use": True}
    fields: Any = {"model": "tgi", "tools": [tool], "max_tokens": 96,
                   "extra_body": {"temperature": 0}}  # fmt: skip
    whole = anthropic.messages.create(**fields, messages=QUESTION, tool_choice=choice)
    assert whole.stop_reason == "tool_use"
    (use,) = whole.content
    assert use.type == "tool_use" and _is_city(use.input)
    with anthropic.messages.stream(**fields, messages=QUESTION, tool_choice=choice) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        (streamed,) = stream.get_final_message().content
    assert len(pieces) > 1 and json.loads("".join(pieces)) == use.input
    assert streamed.type == "tool_use" and streamed.input == use.input
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Rain, 7 degrees"}
    history: Any = [
        *QUESTION,
        {"role": "assistant", "content": [use.to_dict()]},
        {"role": "user", "content": [result]},
    ]
    assert anthropic.messages.create(**fields, messages=history).content
    count = anthropic.messages.count_tokens(model="tgi", messages=QUESTION, tools=[tool])  # type: ignore[list-item]
    cached = whole.usage.cache_read_input_tokens or 0
    assert count.input_tokens == whole.usage.input_tokens + cached


def test_forms_in_every_dialect(server: ServerProcess, openai: OpenAI) -> None:
    schema: Any = {"type": "object", "properties": {"warm": {"type": "boolean"}},
                   "required": ["warm"], "additionalProperties": False}  # fmt: skip
    form: Any = {"type": "json_schema", "name": "x", "schema": schema}
    response = openai.responses.create(model="tgi", input=QUESTION, text={"format": form})
    assert list(json.loads(response.output_text)) == ["warm"]
    anthropic = Anthropic(base_url=server.url, api_key="-", max_retries=0)
    message = anthropic.messages.create(
        model="tgi", messages=QUESTION, max_tokens=99,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )  # fmt: skip
    assert message.content[0].type == "text"
    assert list(json.loads(message.content[0].text)) == ["warm"]


def test_an_answer_of_a_form_or_calls(openai: OpenAI) -> None:
    schema = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"],
              "additionalProperties": False}  # fmt: skip
    answer = openai.chat.completions.create(
        model="tgi", messages=QUESTION, tools=TOOLS, max_tokens=64, temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )  # fmt: skip
    choice = answer.choices[0]
    if choice.message.tool_calls is None:
        assert list(json.loads(choice.message.content or "")) == ["warm"]
