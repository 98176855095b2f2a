"""OpenAI's routes, through the official client where it can show it, else byte by byte."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from headrace.errors import GenerationError, OverloadedError, TemplateError
from headrace.types import FinishReason
from tests.api.conftest import AppOf, client_of
from tests.api.fake_frontend import FakeFrontend

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def official(app_of: AppOf) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(app_of(api_key="key")) as http:
        yield openai.AsyncOpenAI(
            base_url="http://server/v1", api_key="key", http_client=http, max_retries=0
        )


def events_of(content: bytes) -> list[bytes]:
    assert content.endswith(b"\n\n")
    events = content[:-2].split(b"\n\n")
    assert all(event.startswith(b"data: ") for event in events)
    return [event.removeprefix(b"data: ") for event in events]


async def test_chat(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    answer = await official.chat.completions.create(model="tgi", messages=MESSAGES)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "org/model"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "Hello big world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None
    assert answer.usage is not None
    assert answer.usage.to_dict() == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    (request,) = frontend.requests
    assert request.prompt == "<user>hi"
    assert not request.add_special_tokens
    assert not request.keep_stop_text
    assert request.temperature == 1.0
    assert request.num_top_logprobs is None


async def test_chat_fields_reach_the_front_end(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    await official.chat.completions.create(
        model="other-name",
        messages=MESSAGES,
        temperature=0.5,
        top_p=1.0,
        frequency_penalty=1.0,
        presence_penalty=-1.0,
        logit_bias={"5": -100},
        n=2,
        seed=-1,
        stop="END",
        max_completion_tokens=9,
        max_tokens=8,
        logprobs=True,
        top_logprobs=2,
        extra_body={"min_p": 0.1, "top_k": 4, "repetition_penalty": 1.2, "ignore_eos": True,
                    "min_tokens": 2, "stop_token_ids": [3], "typical_p": 0.9,
                    "skip_special_tokens": False, "cache_salt": "me"},
    )  # fmt: skip
    (request,) = frontend.requests
    expected = {
        "temperature": 0.5, "top_p": 1.0, "frequency_penalty": 1.0, "presence_penalty": -1.0,
        "logit_bias": {5: -100.0}, "n": 2, "seed": 2**64 - 1, "stop": ("END",),
        "max_new_tokens": 9, "num_top_logprobs": 2, "min_p": 0.1, "top_k": 4,
        "repetition_penalty": 1.2, "ignore_eos": True, "min_new_tokens": 2,
        "stop_token_ids": (3,), "typical_p": 0.9, "keep_stop_text": False,
        "skip_special_tokens": False, "cache_salt": "me",
    }  # fmt: skip
    assert {name: getattr(request, name) for name in expected} == expected


async def test_temperature_zero_is_greedy(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    await official.chat.completions.create(
        model="tgi", messages=MESSAGES, temperature=0, top_p=0.9, stop=["a", "b"]
    )
    assert frontend.requests[0].temperature == 0.0
    assert frontend.requests[0].stop == ("a", "b")


async def test_chat_logprobs(official: openai.AsyncOpenAI) -> None:
    answer = await official.chat.completions.create(
        model="tgi", messages=MESSAGES, logprobs=True, top_logprobs=1
    )
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.to_dict()["content"][0] == {  # type: ignore[index]
        "token": "Hello",
        "logprob": -0.25,
        "bytes": [72, 101, 108, 108, 111],
        "top_logprobs": [{"token": "t0", "logprob": -0.5, "bytes": [116, 48]}],
    }


async def test_chat_n(official: openai.AsyncOpenAI) -> None:
    answer = await official.chat.completions.create(model="tgi", messages=MESSAGES, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 6)


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (FinishReason.LENGTH, "length"),
        (FinishReason.EOS_TOKEN, "stop"),
        (FinishReason.STOP_SEQUENCE, "stop"),
    ],
)
async def test_finish_reasons(
    official: openai.AsyncOpenAI, frontend: FakeFrontend, reason: FinishReason, name: str
) -> None:
    frontend.reason = reason
    chat = await official.chat.completions.create(model="tgi", messages=MESSAGES)
    text = await official.completions.create(model="tgi", prompt="x")
    assert (chat.choices[0].finish_reason, text.choices[0].finish_reason) == (name, name)


async def test_chat_stream_bytes(client: httpx.AsyncClient, frontend: FakeFrontend) -> None:
    frontend.words = ("Hello", " world")
    body = {"messages": MESSAGES, "stream": True, "stream_options": None}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"] == "text/event-stream"
    first, second, done = events_of(response.content)
    prefix = b'{"object":"chat.completion.chunk","id":"chatcmpl-'
    assert first.startswith(prefix)
    assert first.endswith(
        b'"choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"},"logprobs":null,'
        b'"finish_reason":null}],"usage":null}'
    )
    assert second.endswith(
        b'"choices":[{"index":0,"delta":{"content":" world"},"logprobs":null,'
        b'"finish_reason":"stop"}],"usage":null,"timings":{"queue_ms":250.0,"cache_n":1,'
        b'"prompt_n":1,"prompt_ms":500.0,"prompt_per_token_ms":500.0,"prompt_per_second":2.0,'
        b'"predicted_n":2,"predicted_ms":1000.0,"predicted_per_token_ms":500.0,'
        b'"predicted_per_second":2.0,"draft_n":8,"draft_n_accepted":5,'
        b'"draft_steps_n":3,"forced_n":1}}'
    )
    assert done == b"[DONE]"


async def test_chat_stream_usage_is_an_extra_chunk(official: openai.AsyncOpenAI) -> None:
    stream = await official.chat.completions.create(
        model="tgi", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "Hello big world"
    assert [c.choices[0].delta.role for c in chunks[:-1]] == ["assistant", None, None]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1


async def test_completion(official: openai.AsyncOpenAI) -> None:
    answer = await official.completions.create(model="tgi", prompt="say it", logprobs=1)
    assert answer.id.startswith("cmpl-")
    choice = answer.choices[0]
    assert choice.text == "Hello big world"
    assert choice.logprobs is not None
    assert choice.logprobs.to_dict() == {
        "tokens": ["Hello", " big", " world"],
        "token_logprobs": [-0.25, -0.5, -0.75],
        "top_logprobs": [
            {"Hello": -0.25, "t0": -0.5},
            {" big": -0.5, "t0": -0.5},
            {" world": -0.75, "t0": -0.5},
        ],
        "text_offset": [0, 5, 9],
    }


async def test_echo_with_logprobs(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    answer = await official.completions.create(model="tgi", prompt="say it", logprobs=0, echo=True)
    assert frontend.requests[0].prompt_logprobs
    assert answer.choices[0].text == "say itHello big world"
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["say", " it", "Hello", " big", " world"]
    assert logprobs.token_logprobs == [None, -1.5, -0.25, -0.5, -0.75]
    assert logprobs.text_offset == [0, 3, 6, 11, 15]


async def test_echo_of_a_text_costs_no_logprobs(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    answer = await official.completions.create(model="tgi", prompt="say it", echo=True)
    assert answer.choices[0].text == "say itHello big world"
    assert not frontend.requests[0].prompt_logprobs


async def test_echo_of_token_ids(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    answer = await official.completions.create(model="tgi", prompt=[1, 2], echo=True)
    assert frontend.requests[0].prompt == [1, 2]
    assert answer.choices[0].text == "say itHello big world"
    assert answer.choices[0].logprobs is None


async def test_several_prompts(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    answer = await official.completions.create(model="tgi", prompt=["a", "b"], n=2, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[0] for choice in answer.choices] == ["a", "a", "b", "b"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 12)


async def test_best_of_answers_with_some_and_counts_all(official: openai.AsyncOpenAI) -> None:
    answer = await official.completions.create(model="tgi", prompt=["a", "b"], best_of=2, echo=True)
    assert [(choice.index, choice.text[0]) for choice in answer.choices] == [(0, "a"), (1, "b")]
    assert all(choice.logprobs is None for choice in answer.choices)
    assert answer.usage is not None and answer.usage.completion_tokens == 12


async def test_timings(official: openai.AsyncOpenAI) -> None:
    answer = await official.completions.create(model="tgi", prompt=["a", "b"], n=2)
    assert answer.to_dict()["timings"] == {
        "queue_ms": 250.0,
        "cache_n": 2,
        "prompt_n": 2,
        "prompt_ms": 500.0,
        "prompt_per_token_ms": 250.0,
        "prompt_per_second": 4.0,
        "predicted_n": 12,
        "predicted_ms": 1000.0,
        "predicted_per_token_ms": pytest.approx(1000 / 12),
        "predicted_per_second": 12.0,
        "draft_n": 32,
        "draft_n_accepted": 20,
        "draft_steps_n": 12,
        "forced_n": 4,
    }


async def test_scores_only(official: openai.AsyncOpenAI, frontend: FakeFrontend) -> None:
    await official.completions.create(
        model="tgi", prompt="say it", echo=True, logprobs=1, max_tokens=0
    )
    (request,) = frontend.requests
    assert (request.max_new_tokens, request.prompt_logprobs) == (0, True)


async def test_likeliest_of_the_prompt(official: openai.AsyncOpenAI) -> None:
    answer = await official.completions.create(model="tgi", prompt="x", echo=True, logprobs=2)
    assert answer.choices[0].logprobs is not None
    assert (answer.choices[0].logprobs.top_logprobs or [])[:2] == [
        None,
        {" it": -1.5, "t0": -0.5, "t1": -1.5},
    ]


async def test_several_prompts_streamed(
    official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    frontend.pause = 0.001
    stream = await official.completions.create(
        model="tgi", prompt=["a", "b"], n=2, echo=True, logprobs=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    texts = dict.fromkeys(range(4), "")
    ends = dict.fromkeys(range(4), 0)
    offsets: dict[int, list[int]] = {index: [] for index in range(4)}
    usage = None
    async for chunk in stream:
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            ends[choice.index] += choice.finish_reason == "stop"
            assert choice.logprobs is not None and choice.logprobs.text_offset is not None
            offsets[choice.index] += choice.logprobs.text_offset
    assert texts == {0: "aHello big world", 1: "aHello big world",
                     2: "bHello big world", 3: "bHello big world"}  # fmt: skip
    assert ends == dict.fromkeys(range(4), 1)
    assert offsets == dict.fromkeys(range(4), [0, 3, 6, 11, 15])
    assert usage is not None and usage.completion_tokens == 12


async def test_failure_of_one_prompt_ends_the_others(
    client: httpx.AsyncClient, frontend: FakeFrontend
) -> None:
    frontend.error, frontend.fails_after, frontend.pause = GenerationError("no"), 1, 0.001
    for stream in (False, True):
        body = {"prompt": ["a", "b", "c"], "stream": stream}
        response = await client.post("/v1/completions", json=body)
        assert response.status_code == (200 if stream else 424)
        assert frontend.num_running == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OverloadedError(), openai.RateLimitError),
        (TemplateError("no system role"), openai.UnprocessableEntityError),
        (GenerationError("broken"), openai.APIStatusError),
    ],
)
async def test_errors_are_readable(
    official: openai.AsyncOpenAI,
    frontend: FakeFrontend,
    error: Any,
    kind: type[openai.APIStatusError],
) -> None:
    frontend.error = error
    with pytest.raises(kind, match=str(error)):
        await official.chat.completions.create(model="tgi", messages=MESSAGES)


async def test_error_within_a_stream(
    client: httpx.AsyncClient, official: openai.AsyncOpenAI, frontend: FakeFrontend
) -> None:
    frontend.error, frontend.fails_after = GenerationError("broken"), 1
    body = {"messages": MESSAGES, "stream": True}
    response = await client.post("/v1/chat/completions", json=body)
    assert events_of(response.content)[1:] == [
        b'{"error":{"message":"Request failed during generation: Server error: broken",'
        b'"http_status_code":422}}',
        b"[DONE]",
    ]
    with pytest.raises(openai.APIError, match="Server error: broken"):
        async for _ in await official.chat.completions.create(
            model="tgi", messages=MESSAGES, stream=True
        ):
            pass


REFUSED_IN_CHAT: list[dict[str, Any]] = [
    {"functions": [{"name": "f"}]},
    {"adapter_id": "a"},
    {"modalities": ["audio"]},
    {"chat_template_kwargs": {"messages": []}},
    {"tool_prompt": "say"},
    {"n": 3},
    {"n": 0},
    {"temperature": -0.5},
    {"top_p": 0},
    {"max_tokens": 0},
    {"stop": ["a", "b", "c", "d", "e"]},
    {"logit_bias": {"1": 101}},
]


@pytest.mark.parametrize("fields", REFUSED_IN_CHAT, ids=str)
async def test_what_has_no_effect_is_refused(
    client: httpx.AsyncClient, frontend: FakeFrontend, fields: dict[str, Any]
) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": MESSAGES} | fields)
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    name = {"max_tokens": "max_new_tokens"}.get(*[next(iter(fields))] * 2)
    assert f"`{name}`" in response.json()["error"]["message"]
    assert frontend.requests == []


HARMLESS: list[dict[str, Any]] = [
    {"response_format": {"type": "text"}},
    {"response_format": None, "tools": [], "tool_choice": "auto"},
    {"user": "me", "metadata": {}, "parallel_tool_calls": True},
]


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
async def test_what_asks_for_nothing_is_fine(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": MESSAGES} | fields)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("fields", "error", "error_type"),
    [
        ({"suffix": "x"},
         "Suffix is not supported and can be achieved by preprocessing the prompt.",
         "suffix not supported"),
        ({"prompt": ["x"] * 5}, "Number of prompts exceeds the maximum allowed batch size of 4",
         "batch size exceeded"),
        ({"prompt": []}, "Input validation error: `prompt` must not be an empty list",
         "validation"),
        ({"prompt": ""}, "Input validation error: `inputs` cannot be empty", "validation"),
        ({"n": 2, "best_of": 1}, "Input validation error: `best_of` must be >= `n`. Given: 1 and 2",
         "validation"),
        ({"best_of": 2, "stream": True},
         "Input validation error: `best_of` > `n` is not supported when streaming tokens",
         "validation"),
        ({"best_of": 2, "temperature": 0},
         "Input validation error: you must use sampling when `best_of` is > `n`", "validation"),
        ({"best_of": 3}, "Input validation error: `best_of` must be > 0 and <= 2. Given: 3",
         "validation"),
        ({"stream_options": {"include_usage": True}},
         "Input validation error: `stream_options` is only allowed when `stream` is true",
         "validation"),
    ],
)  # fmt: skip
async def test_refused_completions(
    client: httpx.AsyncClient, fields: dict[str, Any], error: str, error_type: str
) -> None:
    response = await client.post("/v1/completions", json={"prompt": "x"} | fields)
    assert response.status_code == 422
    assert response.json() == {
        "error": {"message": error, "type": error_type, "param": None, "code": None},
        "error_type": error_type,
    }


async def test_text_parts_are_joined(client: httpx.AsyncClient, frontend: FakeFrontend) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": parts, "name": "Ada"}]
    await client.post("/v1/chat/completions", json={"messages": messages})
    assert frontend.rendered == [[{"role": "user", "content": "ab", "name": "Ada"}]]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, "content"),
        ({"content": None}, "content"),
        (
            {
                "content": None,
                "tool_calls": [{"id": "0", "function": {"name": "f", "arguments": "["}}],
            },
            "tool_calls[0].function.arguments",
        ),
    ],
)
async def test_unusable_messages(
    client: httpx.AsyncClient, message: dict[str, Any], field: str
) -> None:
    body = {"messages": [{"role": "user"} | message]}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 422
    assert f"`messages[0].{field}`" in response.json()["error"]["message"]


async def test_unreadable_bodies_are_explained(official: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="seed: Input should be a valid int"):
        await official.completions.create(model="tgi", prompt="x", seed="one")  # type: ignore[call-overload]


async def test_overload_advises_when_to_retry(
    client: httpx.AsyncClient, frontend: FakeFrontend
) -> None:
    frontend.error = OverloadedError(retry_after=1.2)
    response = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
