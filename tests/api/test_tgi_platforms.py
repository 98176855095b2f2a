"""SageMaker's and Vertex AI's envelopes."""

from typing import Any

import httpx
import pytest

from headrace.errors import GenerationError, OverloadedError
from tests.api.conftest import AppOf, client_of
from tests.api.fake_frontend import FakeFrontend

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"inputs": "x", "parameters": {"details": True}}, "/"),
        ({"inputs": "x", "messages": MESSAGES}, "/"),
        ({"messages": MESSAGES, "prompt": "y", "seed": 1}, "/v1/chat/completions"),
        ({"prompt": "y", "logprobs": 1}, "/v1/completions"),
        ({"inputs": "x", "stream": True}, "/"),
        ({"messages": MESSAGES, "stream": True}, "/v1/chat/completions"),
        ({"prompt": "y", "stream": True}, "/v1/completions"),
    ],
)
async def test_invocations_answer_as_the_route_does(
    app_of: AppOf, frontend: FakeFrontend, body: dict[str, Any], path: str
) -> None:
    async with client_of(app_of(tgi_compat=True)) as client:  # answers without random ids
        wrapped = await client.post("/invocations", json=body)
        direct = await client.post(path, json=body)
    assert wrapped.status_code == 200
    assert frontend.requests[0].prompt == frontend.requests[1].prompt
    strip = [b'"created":', b'"seed":']
    assert _without(wrapped.content, strip) == _without(direct.content, strip)
    assert wrapped.headers["content-type"] == direct.headers["content-type"]


def _without(content: bytes, keys: list[bytes]) -> bytes:
    for key in keys:
        head, *rest = content.split(key)
        content = head + b"".join(part.lstrip(b"0123456789nul") for part in rest)
    return content


@pytest.mark.parametrize("body", [{}, {"parameters": {}}, [], "x"])
async def test_invocation_of_nothing_known(client: httpx.AsyncClient, body: Any) -> None:
    response = await client.post("/invocations", json=body)
    assert response.status_code == 422
    assert "data did not match any variant of untagged enum SagemakerRequest" in response.text


async def test_vertex(client: httpx.AsyncClient, frontend: FakeFrontend) -> None:
    instances = [
        {"inputs": "a", "parameters": {"max_new_tokens": 4, "seed": 5}},
        {"messages": MESSAGES},
    ]
    response = await client.post("/vertex", json={"instances": instances})
    assert response.json() == {"predictions": ["Hello big world"] * 2}
    generate, chat = frontend.requests
    assert (generate.prompt, generate.max_new_tokens, generate.seed) == ("a", 4, 5)
    assert generate.temperature == 1.0, "always samples"
    assert chat.prompt == "<user>hi"


async def test_vertex_without_instances(client: httpx.AsyncClient) -> None:
    response = await client.post("/vertex", json={"instances": []})
    assert response.status_code == 422
    assert response.json() == {
        "error": "Input validation error",
        "error_type": "Input validation error",
    }


@pytest.mark.parametrize(
    ("error", "status"), [(GenerationError("x"), 500), (OverloadedError(), 429)]
)
async def test_vertex_failures(
    client: httpx.AsyncClient, frontend: FakeFrontend, error: Exception, status: int
) -> None:
    frontend.error = error
    response = await client.post("/vertex", json={"instances": [{"inputs": "x"}]})
    assert response.status_code == status
    assert set(response.json()) == {"error", "error_type"}


async def test_vertex_wants_one_answer_per_instance(client: httpx.AsyncClient) -> None:
    for instance in ({"messages": MESSAGES, "n": 2}, {"inputs": "x", "parameters": {"best_of": 2}}):
        response = await client.post("/vertex", json={"instances": [instance]})
        assert response.status_code == 422


async def test_paths_of_vertex_ai(app_of: AppOf) -> None:
    app = app_of(aip_predict_route="/predict", aip_health_route="/health", api_key="k")
    async with client_of(app) as client:
        body = {"instances": [{"inputs": "x"}]}
        assert (await client.post("/predict", json=body)).status_code == 401
        headers = {"authorization": "Bearer k"}
        assert (await client.post("/predict", json=body, headers=headers)).status_code == 200
        assert (await client.get("/health")).status_code == 200
