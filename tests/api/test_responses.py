"""The Responses API, through the official client."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from headrace.errors import GenerationError
from headrace.types import FinishReason
from tests.api.conftest import AppOf, client_of
from tests.api.fake_frontend import FakeFrontend


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
        ({"text": {"format": {"type": "json_object"}}}, "`text.format`"),
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
