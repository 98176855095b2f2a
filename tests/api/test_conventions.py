"""`--tgi-compat`: TGI's choices on OpenAI's routes, by its own published snapshots and code."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from headrace.errors import GenerationError
from headrace.types import FinishReason
from tests.api.conftest import AppOf, client_of
from tests.api.fake_frontend import FakeFrontend
from tests.api.replies import ARGUMENTS, CALLS, SCHEMA, say

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
CALLING = {"messages": MESSAGES, "tools": TOOLS}


@pytest.fixture
async def tgi(app_of: AppOf) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of(tgi_compat=True)) as client:
        yield client


@pytest.mark.parametrize(
    ("reason", "chat_name", "completion_name"),
    [
        (FinishReason.EOS_TOKEN, "stop", "eos_token"),
        (FinishReason.LENGTH, "length", "length"),
        (FinishReason.STOP_SEQUENCE, "stop_sequence", "stop_sequence"),
    ],
)
async def test_finish_reasons_and_ids(
    tgi: httpx.AsyncClient,
    frontend: FakeFrontend,
    reason: FinishReason,
    chat_name: str,
    completion_name: str,
) -> None:
    frontend.reason = reason
    chat = (await tgi.post(CHAT, json={"messages": MESSAGES})).json()
    completion = (await tgi.post("/v1/completions", json={"prompt": "x"})).json()
    assert (chat["id"], completion["id"]) == ("", "")
    assert chat["choices"][0]["finish_reason"] == chat_name
    assert completion["choices"][0]["finish_reason"] == completion_name


async def test_stop_text_is_kept(tgi: httpx.AsyncClient, frontend: FakeFrontend) -> None:
    await tgi.post(CHAT, json={"messages": MESSAGES, "stop": ["x"]})
    assert frontend.requests[0].keep_stop_text


async def test_every_delta_names_the_role(tgi: httpx.AsyncClient) -> None:
    response = await tgi.post(CHAT, json={"messages": MESSAGES, "stream": True})
    *chunks, done = response.text.removesuffix("\n\n").split("\n\n")
    deltas = [orjson.loads(c.removeprefix("data: "))["choices"][0]["delta"] for c in chunks]
    assert deltas == [{"role": "assistant", "content": w} for w in ("Hello", " big", " world")]
    assert done == "data: [DONE]"


async def test_completion_chunks_have_empty_finish_reasons(tgi: httpx.AsyncClient) -> None:
    response = await tgi.post("/v1/completions", json={"prompt": "x", "stream": True})
    *chunks, _ = response.text.removesuffix("\n\n").split("\n\n")
    choices = [orjson.loads(chunk.removeprefix("data: "))["choices"][0] for chunk in chunks]
    assert [choice["finish_reason"] for choice in choices] == ["", "", "eos_token"]
    usages = [orjson.loads(chunk.removeprefix("data: "))["usage"] for chunk in chunks]
    assert usages[:-1] == [None, None]
    assert (usages[-1]["prompt_tokens"], usages[-1]["completion_tokens"]) == (2, 3)


def choices_of(response: httpx.Response) -> list[Any]:
    *chunks, done = response.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [orjson.loads(chunk.removeprefix("data: "))["choices"][0] for chunk in chunks]


@pytest.mark.parametrize("is_compatible", [True, False])
async def test_special_tokens_of_a_completion(
    app_of: AppOf, frontend: FakeFrontend, is_compatible: bool
) -> None:
    frontend.special = "<|im_end|>"
    async with client_of(app_of(tgi_compat=is_compatible)) as client:
        body = {"prompt": "x", "stream": True}
        choices = choices_of(await client.post("/v1/completions", json=body))
    end = "<|im_end|>" if is_compatible else ""
    assert "".join(choice["text"] for choice in choices) == f"Hello big world{end}"


async def test_calls_are_spelled_out(tgi: httpx.AsyncClient, frontend: FakeFrontend) -> None:
    say(frontend, CALLS)
    (choice,) = (await tgi.post(CHAT, json=CALLING)).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert list(choice["message"]) == ["role", "tool_calls"]
    functions = [call["function"] for call in choice["message"]["tool_calls"]]
    assert functions == [
        {"description": None, "name": "weather", "arguments": ARGUMENTS},
        {"description": None, "name": "now", "arguments": "{}"},
    ]


async def test_streamed_calls_have_no_finish(
    tgi: httpx.AsyncClient, frontend: FakeFrontend
) -> None:
    say(frontend, CALLS)
    choices = choices_of(await tgi.post(CHAT, json=CALLING | {"stream": True}))
    assert {choice["finish_reason"] for choice in choices} == {None}
    assert {choice["delta"]["role"] for choice in choices} == {"assistant"}
    parts = [part for choice in choices for part in choice["delta"].get("tool_calls", ())]
    assert len({part["id"] for part in parts}) == 2
    assert {part["type"] for part in parts} == {"function"}
    named = [part["function"]["name"] for part in parts if part["function"]["name"]]
    assert named == ["weather", "now"]
    first = "".join(part["function"]["arguments"] for part in parts if part["index"] == 0)
    assert first == ARGUMENTS


async def test_errors(tgi: httpx.AsyncClient, frontend: FakeFrontend) -> None:
    frontend.error = GenerationError("x")
    response = await tgi.post(CHAT, json={"messages": MESSAGES})
    assert response.status_code == 424
    assert response.json() == {
        "error": "Request failed during generation: Server error: x",
        "error_type": "generation",
    }
    refused = await tgi.post(CHAT, json={"messages": 1})
    assert refused.status_code == 422
    assert refused.headers["content-type"].startswith("text/plain")
