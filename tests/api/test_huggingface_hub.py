"""The clients that TGI's users have: huggingface_hub's, against a real server."""

import asyncio
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub import errors as client_errors

from headrace.errors import GenerationError, OverloadedError, ValidationError
from tests.api.conftest import AppOf
from tests.api.fake_frontend import FakeFrontend
from tests.api.live_server import server_at

MESSAGES = [{"role": "user", "content": "x"}]


def use(port: int) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}"
    text, chat = InferenceClient(model=url), InferenceClient(base_url=url)
    chunks = chat.chat_completion(MESSAGES, stream=True)
    return {
        "text": text.text_generation("hi", return_full_text=False),
        "details": text.text_generation("hi", details=True, decoder_input_details=True),
        "events": list(text.text_generation("hi", details=True, stream=True)),
        "chat": chat.chat_completion(MESSAGES, logprobs=True, top_logprobs=1),
        "chunks": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
    }


async def test_its_calls(app_of: AppOf) -> None:
    async with server_at(app_of()) as port:
        answers = await asyncio.to_thread(use, port)
    assert answers["text"] == "Hello big world"
    details = answers["details"].details
    assert [token.text for token in details.prefill] == ["say", " it"]
    assert [token.logprob for token in details.tokens] == [-0.25, -0.5, -0.75]
    assert answers["events"][-1].generated_text == "hiHello big world"
    assert answers["events"][-1].details.input_length == 2
    assert answers["chat"].choices[0].logprobs.content[0].top_logprobs[0].token == "t0"
    assert answers["chunks"] == "Hello big world"


def call_tools(port: int) -> tuple[Any, list[Any]]:
    chat = InferenceClient(base_url=f"http://127.0.0.1:{port}")
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    whole = chat.chat_completion(MESSAGES, tools=tools, tool_choice="auto")
    return whole, list(chat.chat_completion(MESSAGES, tools=tools, stream=True))


async def test_its_tools(app_of: AppOf, frontend: FakeFrontend) -> None:
    frontend.words = ("<tool_call>", '{"name": "f", ', '"arguments": {"a"', ": 1}}", "</tool_call>")
    async with server_at(app_of()) as port:
        whole, chunks = await asyncio.to_thread(call_tools, port)
    (call,) = whole.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("f", '{"a": 1}')
    parts = [p for c in chunks for p in c.choices[0].delta.tool_calls or ()]
    assert "".join(part.function.arguments for part in parts) == '{"a": 1}'
    assert [parts[0].function.name, chunks[-1].choices[0].finish_reason] == ["f", "tool_calls"]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (GenerationError("no"), client_errors.GenerationError, "Request failed during generation"),
        (OverloadedError(), client_errors.OverloadedError, "Model is overloaded"),
        (
            ValidationError("`x` is bad"),
            client_errors.ValidationError,
            "Input validation error: `x` is",
        ),
    ],
)
async def test_its_exceptions(
    app_of: AppOf,
    frontend: FakeFrontend,
    error: Any,
    kind: type[Exception],
    message: str,
) -> None:
    frontend.error = error
    async with server_at(app_of()) as port:
        url = f"http://127.0.0.1:{port}"
        text, chat = InferenceClient(model=url), InferenceClient(base_url=url)
        with pytest.raises(kind, match=message):
            await asyncio.to_thread(text.text_generation, "hi")
        with pytest.raises(client_errors.HfHubHTTPError, match=message):
            await asyncio.to_thread(chat.chat_completion, MESSAGES)
