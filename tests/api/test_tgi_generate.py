"""Native generation routes; the expected bytes are written down from TGI's contract."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from headrace.errors import GenerationError, OverloadedError, ValidationError
from headrace.types import FinishReason
from tests.api.conftest import AppOf
from tests.api.fake_frontend import FakeFrontend

TOKENS = (
    b'[{"id":10,"text":"Hello","logprob":-0.25,"special":false},'
    b'{"id":11,"text":" big","logprob":-0.5,"special":false},'
    b'{"id":12,"text":" world","logprob":-0.75,"special":false}]'
)


async def test_plain_answer_has_text_only(client: httpx.AsyncClient) -> None:
    response = await client.post("/generate", json={"inputs": "say it"})
    assert response.status_code == 200
    assert response.content == b'{"generated_text":"Hello big world"}'
    assert response.headers["content-type"] == "application/json"


async def test_headers_tell_the_cost(client: httpx.AsyncClient) -> None:
    response = await client.post("/generate", json={"inputs": "säy it"})
    names = {name: value for name, value in response.headers.items() if name.startswith("x-")}
    names.pop("x-request-id")
    assert names == {
        "x-compute-type": "cpu+optimized",
        "x-compute-characters": "6",
        "x-compute-time": "1.875",
        "x-total-time": "1875",
        "x-validation-time": "125",
        "x-queue-time": "250",
        "x-inference-time": "1500",
        "x-time-per-token": "500",
        "x-prompt-tokens": "2",
        "x-generated-tokens": "3",
    }


async def test_details(client: httpx.AsyncClient) -> None:
    body = {"inputs": "say it", "parameters": {"details": True}}
    response = await client.post("/generate", json=body)
    assert response.content == (
        b'{"generated_text":"Hello big world","details":{"finish_reason":"eos_token",'
        b'"generated_tokens":3,"seed":null,"prefill":[],"tokens":' + TOKENS + b"}}"
    )


async def test_decoder_input_details_imply_details(client: httpx.AsyncClient) -> None:
    body = {"inputs": "say it", "parameters": {"decoder_input_details": True, "seed": 5,
                                               "do_sample": True}}  # fmt: skip
    response = await client.post("/generate", json=body)
    assert response.content == (
        b'{"generated_text":"Hello big world","details":{"finish_reason":"eos_token",'
        b'"generated_tokens":3,"seed":5,"prefill":[{"id":1,"text":"say","logprob":null},'
        b'{"id":2,"text":" it","logprob":-1.5}],"tokens":' + TOKENS + b"}}"
    )


async def test_best_of_and_top_tokens(client: httpx.AsyncClient) -> None:
    parameters = {"best_of": 2, "do_sample": True, "details": True, "top_n_tokens": 1}
    response = await client.post("/generate", json={"inputs": "x", "parameters": parameters})
    details = response.json()["details"]
    top = [[{"id": 20, "text": "t0", "logprob": -0.5, "special": False}]] * 3
    assert list(details) == [
        "finish_reason", "generated_tokens", "seed", "prefill", "tokens", "best_of_sequences",
        "top_tokens",
    ]  # fmt: skip
    assert details["top_tokens"] == top
    (loser,) = details["best_of_sequences"]
    assert loser["generated_text"] == "Hello big world"
    assert loser["seed"] == 8
    assert loser["top_tokens"] == top


async def test_stream_bytes(client: httpx.AsyncClient) -> None:
    body = {"inputs": "say it", "parameters": {"details": True}}
    response = await client.post("/generate_stream", json=body)
    assert response.content == (
        b'data: {"index":1,"token":{"id":10,"text":"Hello","logprob":-0.25,"special":false},'
        b'"generated_text":null,"details":null}\n\n'
        b'data: {"index":2,"token":{"id":11,"text":" big","logprob":-0.5,"special":false},'
        b'"generated_text":null,"details":null}\n\n'
        b'data: {"index":3,"token":{"id":12,"text":" world","logprob":-0.75,"special":false},'
        b'"generated_text":"Hello big world","details":{"finish_reason":"eos_token",'
        b'"generated_tokens":3,"seed":null,"input_length":2}}\n\n'
    )
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-compute-type"] == "cpu+optimized"
    assert response.headers["x-compute-characters"] == "6"


async def test_stream_without_details_and_with_top_tokens(client: httpx.AsyncClient) -> None:
    body = {"inputs": "say it", "parameters": {"top_n_tokens": 1}}
    response = await client.post("/generate_stream", json=body)
    assert response.content.endswith(
        b'"special":false},"top_tokens":[{"id":20,"text":"t0","logprob":-0.5,"special":false}],'
        b'"generated_text":"Hello big world","details":null}\n\n'
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("tag", "given", "text"),
    [
        (None, None, "say itHello big world"),
        ("text-generation", None, "say itHello big world"),
        ("image-text-to-text", None, "Hello big world"),
        (None, False, "Hello big world"),
        ("image-text-to-text", True, "say itHello big world"),
    ],
)
async def test_root_returns_the_full_text_by_default(
    app_of: AppOf,
    connect: Callable[..., httpx.AsyncClient],
    stream: bool,
    tag: str | None,
    given: bool | None,
    text: str,
) -> None:
    body = {"inputs": "say it", "stream": stream, "parameters": {"return_full_text": given}}
    async with connect(app_of(pipeline_tag=tag)) as client:
        response = await client.post("/", json=body)
    if stream:
        assert f'"generated_text":"{text}"'.encode() in response.content
    else:
        assert response.json() == [{"generated_text": text}]


@pytest.mark.parametrize(
    ("body", "temperature"),
    [
        ({}, 1.0),
        ({"parameters": {}}, 0.0),
        ({"parameters": {"seed": 1}}, 0.0),
        ({"parameters": {"do_sample": True}}, 1.0),
        ({"parameters": {"temperature": 0.5}}, 0.5),
        ({"parameters": {"top_k": 5}}, 1.0),
        ({"parameters": {"top_p": 0.5}}, 1.0),
        ({"parameters": {"typical_p": 0.5}}, 1.0),
    ],
)
async def test_when_it_samples(
    client: httpx.AsyncClient, frontend: FakeFrontend, body: dict[str, Any], temperature: float
) -> None:
    await client.post("/generate", json={"inputs": "x"} | body)
    assert frontend.requests[0].temperature == temperature


async def test_all_fields_reach_the_front_end(
    client: httpx.AsyncClient, frontend: FakeFrontend
) -> None:
    parameters = {
        "temperature": 0.5, "repetition_penalty": 1.1, "frequency_penalty": -2.0,
        "presence_penalty": 2.0, "top_p": 0.9, "typical_p": 0.8, "min_p": 0.05, "top_k": 7,
        "max_new_tokens": 20, "min_new_tokens": 3, "ignore_eos": True, "stop": ["a", "b"],
        "stop_token_ids": [9], "truncate": 4, "seed": 18446744073709551615, "top_n_tokens": 2,
        "details": True, "logit_bias": {"3": -100}, "watermark": True,
    }  # fmt: skip
    response = await client.post("/generate", json={"inputs": "x", "parameters": parameters})
    assert response.status_code == 200
    (request,) = frontend.requests
    assert request.prompt == "x"
    assert request.add_special_tokens
    assert request.keep_stop_text
    assert request.stop == ("a", "b")
    assert request.stop_token_ids == (9,)
    assert request.min_new_tokens == 3
    assert request.num_top_logprobs == 2
    assert request.logit_bias == {3: -100}
    same = set(parameters) - {"stop", "stop_token_ids", "top_n_tokens", "details", "logit_bias"}
    for name in same:
        assert getattr(request, name) == parameters[name], name


async def test_failed_generation_is_424(client: httpx.AsyncClient, frontend: FakeFrontend) -> None:
    frontend.error = GenerationError("no finite logit")
    response = await client.post("/generate", json={"inputs": "x"})
    assert response.status_code == 424
    assert response.content == (
        b'{"error":"Request failed during generation: Server error: no finite logit",'
        b'"error_type":"generation"}'
    )


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
async def test_overload_is_429_even_for_a_stream(
    client: httpx.AsyncClient, frontend: FakeFrontend, path: str
) -> None:
    frontend.error = OverloadedError(retry_after=1.2)
    body = {"inputs": "x", "prompt": "x", "stream": True}
    response = await client.post(path, json=body)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.content == b'{"error":"Model is overloaded","error_type":"overloaded"}'


async def test_error_before_the_first_token_has_its_status(
    client: httpx.AsyncClient, frontend: FakeFrontend
) -> None:
    frontend.error = ValidationError("`inputs` must have less than 4 tokens. Given: 5")
    response = await client.post("/generate_stream", json={"inputs": "x"})
    assert response.status_code == 422
    assert response.content == (
        b'{"error":"Input validation error: `inputs` must have less than 4 tokens. Given: 5",'
        b'"error_type":"validation"}'
    )


async def test_error_within_a_stream_is_an_event(
    client: httpx.AsyncClient, frontend: FakeFrontend
) -> None:
    frontend.error, frontend.fails_after = GenerationError("out of paper"), 2
    response = await client.post("/generate_stream", json={"inputs": "x"})
    assert response.status_code == 200
    events = response.content.split(b"\n\n")
    assert len(events) == 4 and events[3] == b""
    assert events[2] == (
        b'data: {"error":"Request failed during generation: Server error: out of paper",'
        b'"error_type":"generation"}'
    )


@pytest.mark.parametrize("reason", list(FinishReason))
async def test_finish_reasons_are_tgi_s(
    client: httpx.AsyncClient, frontend: FakeFrontend, reason: FinishReason
) -> None:
    frontend.reason = reason
    body = {"inputs": "x", "parameters": {"details": True}}
    response = await client.post("/generate", json=body)
    assert response.json()["details"]["finish_reason"] == reason.value
