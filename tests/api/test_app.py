"""What holds for all routes: keys, origins, ids, health, documentation."""

from collections.abc import Callable

import httpx
import openai
import pytest

from headrace import __version__
from headrace.api.routes import ROUTES
from tests.api.conftest import AppOf, client_of
from tests.api.fake_frontend import FakeFrontend

Connect = Callable[..., httpx.AsyncClient]
MESSAGES = [{"role": "user", "content": "x"}]
EVERY_BODY = {"inputs": "x", "prompt": "x", "messages": MESSAGES, "model": "x",
              "max_tokens": 5, "instances": [{"inputs": "x"}]}  # fmt: skip

GUARDED = {"/", "/generate", "/generate_stream", "/tokenize", "/v1/chat/completions",
           "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
           "/invocations", "/vertex"}  # fmt: skip


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_key_is_asked_for_where_tgi_asks(
    app_of: AppOf, connect: Connect, route: object
) -> None:
    method, path = route.method, route.path  # type: ignore[attr-defined]
    is_guarded = method == "POST" and path in GUARDED
    body = {"/v1/responses": {"input": "x"}}.get(path, EVERY_BODY) if method == "POST" else None
    async with connect(app_of(api_key="Secret")) as client:
        for header, is_right in [
            ("Bearer Secret", True),
            ("bEARER sECRET", True),
            ("Bearer Secret2", False),
            ("Secret", False),
            ("", False),
        ]:
            response = await client.request(
                method, path, json=body, headers={"authorization": header}
            )
            if is_right or not is_guarded:
                assert response.status_code == 200
            else:
                assert response.status_code == 401
                assert not response.content or path.startswith("/v1/messages")


async def test_browsers_may_send_a_key(client: httpx.AsyncClient) -> None:
    headers = {
        "origin": "http://page",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    response = await client.options("/generate", headers=headers)
    assert response.status_code == 200
    allowed = response.headers["access-control-allow-headers"].lower()
    assert "authorization" in allowed and "content-type" in allowed
    assert response.headers["access-control-allow-origin"] == "*"
    assert set(response.headers["access-control-allow-methods"].split(", ")) == {"GET", "POST"}


async def test_only_listed_origins(app_of: AppOf, connect: Connect) -> None:
    async with connect(app_of(cors_allow_origin=["http://a"])) as client:
        allowed = await client.get("/info", headers={"origin": "http://a"})
        other = await client.get("/info", headers={"origin": "http://b"})
    assert allowed.headers["access-control-allow-origin"] == "http://a"
    assert "access-control-allow-origin" not in other.headers


async def test_request_id(client: httpx.AsyncClient) -> None:
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    given = await client.get("/health", headers={"x-request-id": "mine-1"} | trace)
    assert given.headers["x-request-id"] == "mine-1"
    odd = await client.get("/health", headers={"x-request-id": "a b"})
    new = await client.get("/health")
    assert len({odd.headers["x-request-id"], new.headers["x-request-id"], "a b"}) == 3


@pytest.mark.parametrize("path", ["/", "/health", "/ping"])
async def test_health(client: httpx.AsyncClient, frontend: FakeFrontend, path: str) -> None:
    response = await client.get(path)
    assert (response.status_code, response.content) == (200, b"")
    frontend.is_healthy = False
    response = await client.get(path)
    assert response.status_code == 503
    assert response.content == b'{"error":"unhealthy","error_type":"healthcheck"}'


async def test_info(client: httpx.AsyncClient) -> None:
    response = await client.get("/info")
    assert response.json() == {
        "model_id": "org/model",
        "model_sha": "abc",
        "model_pipeline_tag": None,
        "max_concurrent_requests": 128,
        "max_best_of": 2,
        "max_stop_sequences": 4,
        "max_input_tokens": 2047,
        "max_total_tokens": 2048,
        "validation_workers": 2,
        "max_client_batch_size": 4,
        "router": "text-generation-router",
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


async def test_models(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models")
    assert response.content == (
        b'{"object":"list","data":[{"id":"org/model","object":"model","created":0,'
        b'"owned_by":"org/model"}]}'
    )


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404),
                                                        ("GET", "/generate", 405)])  # fmt: skip
async def test_no_such_route(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.content) == (status, b"")


async def test_clients_are_told_of_missing_routes(app_of: AppOf) -> None:
    async with client_of(app_of()) as http:
        client = openai.AsyncOpenAI(base_url="http://server/v1", api_key="-", http_client=http)
        with pytest.raises(openai.NotFoundError, match="no route POST /v1/embeddings"):
            await client.embeddings.create(model="m", input="x")
    async with client_of(app_of(tgi_compat=True)) as http:
        response = await http.post("/v1/embeddings", json={})
        assert (response.status_code, response.content) == (404, b"")


async def test_tokenize_counts_bytes(client: httpx.AsyncClient) -> None:
    response = await client.post("/tokenize", json={"inputs": "éa"})
    assert response.json() == [
        {"id": 0, "text": "", "start": 0, "stop": 0},
        {"id": 233, "text": "é", "start": 0, "stop": 2},
        {"id": 97, "text": "a", "start": 2, "stop": 3},
    ]


async def test_chat_tokenize(client: httpx.AsyncClient) -> None:
    response = await client.post("/chat_tokenize", json={"messages": MESSAGES})
    answer = response.json()
    assert answer["templated_text"] == "<user>x"
    assert answer["tokenize_response"][-1] == {"id": 120, "text": "x", "start": 6, "stop": 7}
    assert len(answer["tokenize_response"]) == 7


async def test_document_covers_every_route(client: httpx.AsyncClient) -> None:
    document = (await client.get("/api-doc/openapi.json")).json()
    described = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert described == {(route.method, route.path) for route in ROUTES}
    parameters = document["components"]["schemas"]["GenerateParameters"]["properties"]
    assert {"temperature", "best_of", "seed", "top_n_tokens"} <= set(parameters)


async def test_docs_page_needs_no_other_server(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    assert "/api-doc/openapi.json" in page
    assert "http://" not in page and "https://" not in page
