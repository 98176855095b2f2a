"""Anthropic's routes, through the official client."""

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
        "message_start", "content_block_start", "ping", *["content_block_delta"] * 3,
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
        ({"tools": [{"name": "f", "input_schema": {}}]}, "`tools` is not supported"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "`thinking` is not supported"),
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
