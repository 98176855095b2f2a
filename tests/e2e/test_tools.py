"""Tools with the embedded model, which was not trained for them: whatever it says is an answer."""

import json
from typing import Any

import pytest
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
