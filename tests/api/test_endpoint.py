"""Whatever a client sends gets an answer in a known shape, and is counted once."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.api.app import build_app
from headrace.api.openai.schemas import ChatRequest, CompletionRequest
from headrace.api.parameters import GenerateParameters
from headrace.api.service import ServedModel
from headrace.config import Settings
from headrace.errors import EngineDeadError, GenerationError
from headrace.observability.metrics import Metrics
from tests.api.conftest import AppOf, client_of
from tests.api.fake_frontend import INFO, FakeFrontend

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**65), 2**65), st.floats(allow_nan=False),
    st.text(max_size=4), st.sampled_from([0, 1, 0.5, 1.0, "a"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


def bodies_of(model: type[Any], **always: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with some of the model's fields set to anything."""
    fields = st.dictionaries(st.sampled_from(sorted(model.model_fields)), VALUES, max_size=4)
    return fields.map(lambda some: {**always, **some})


REQUESTS = st.one_of(
    bodies_of(GenerateParameters).map(lambda p: ("/generate", {"inputs": "x", "parameters": p})),
    bodies_of(GenerateParameters).map(
        lambda p: ("/generate_stream", {"inputs": "x", "parameters": p})
    ),
    bodies_of(ChatRequest, messages=[{"role": "user", "content": "x"}]).map(
        lambda body: ("/v1/chat/completions", body)
    ),
    bodies_of(CompletionRequest, prompt="x").map(lambda body: ("/v1/completions", body)),
    VALUES.map(lambda value: ("/generate", value)),
)


APP = build_app(
    FakeFrontend(),
    Settings(),
    ServedModel(model_id="m"),
    Metrics(INFO.max_total_tokens - 1, INFO.max_total_tokens),
)


async def answer_to(path: str, body: object) -> httpx.Response:
    content = json.dumps(body).encode()
    async with client_of(APP) as client:
        return await client.post(
            path, content=content, headers={"content-type": "application/json"}
        )


@given(REQUESTS)
@settings(max_examples=200)
def test_any_json_is_answered_or_refused(request: tuple[str, Any]) -> None:
    response = asyncio.run(answer_to(*request))
    assert response.status_code in {200, 422}
    if response.status_code == 422 and response.headers["content-type"] == "application/json":
        assert set(response.json()) == {"error", "error_type"}


async def samples(client: httpx.AsyncClient) -> set[str]:
    text = (await client.get("/metrics")).text
    return {line for line in text.splitlines() if line.startswith("tgi_request_") and
            line.split("{")[0].split()[0].endswith(("count", "success", "failure"))}  # fmt: skip


async def test_requests_are_counted_once(client: httpx.AsyncClient, frontend: FakeFrontend) -> None:
    await client.post("/v1/chat/completions", json={"messages": [{"role": "u", "content": "x"}]})
    await client.post("/v1/completions", json={"prompt": ["a", "b"], "stream": True})
    await client.post("/tokenize", json={"inputs": "x"})
    await client.post("/generate", json={"inputs": ""})
    frontend.error, frontend.fails_after = GenerationError("no"), 1
    await client.post("/generate_stream", json={"inputs": "x"})
    lines = await samples(client)
    assert {
        "tgi_request_count 4",
        "tgi_request_success 2",
        'tgi_request_failure{err="validation"} 1',
        'tgi_request_failure{err="generation"} 1',
        # One per sequence: a chat, and two prompts.
        "tgi_request_duration_count 3",
        "tgi_request_generated_tokens_count 3",
    } <= lines


async def test_a_client_that_goes_counts_as_dropped(
    app_of: AppOf, connect: Callable[..., httpx.AsyncClient], frontend: FakeFrontend
) -> None:
    frontend.hangs_after = 1
    app = app_of()
    messages = [
        {"type": "http.request", "body": b'{"inputs":"x"}', "more_body": False},
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http", "method": "POST", "path": "/generate_stream", "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return messages.pop(0)

    async def send(message: Any) -> None:
        pass

    await app(scope, receive, send)
    assert frontend.num_running == 0
    async with connect(app) as client:
        assert 'tgi_request_failure{err="dropped"} 1' in await samples(client)


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_a_dead_engine_is_503(
    client: httpx.AsyncClient, frontend: FakeFrontend, path: str
) -> None:
    frontend.error = EngineDeadError("the engine process ended with code 1")
    response = await client.post(path, json={"inputs": "x"})
    assert response.status_code == 503
    assert response.json() == {
        "error": "the engine process ended with code 1",
        "error_type": "healthcheck",
    }
