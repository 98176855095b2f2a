"""Bodies that cannot be read: axum's statuses and texts."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from tests.api.conftest import AppOf

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"", 400, "Failed to parse the request body as JSON: "
                   "EOF while parsing a value at line 1 column 0"),
        (b"{", 400, "Failed to parse the request body as JSON: "
                    "EOF while parsing an object at line 1 column 1"),
        (b"[" * 100_000, 400, "Failed to parse the request body as JSON: "
                              "recursion limit exceeded at line 1 column 202"),
        (b"{}", 422, "Failed to deserialize the JSON body into the target type: "
                     "missing field `inputs`"),
        (b'{"inputs":1}', 422, "Failed to deserialize the JSON body into the target type: "
                               "inputs: Input should be a valid string"),
        (b'{"inputs":"x","parameters":{"stop":null}}', 422,
         "Failed to deserialize the JSON body into the target type: "
         "parameters.stop: Input should be a valid array"),
        (b'{"inputs":"x","parameters":{"stop":["a",1]}}', 422,
         "Failed to deserialize the JSON body into the target type: "
         "parameters.stop[1]: Input should be a valid string"),
        (b'{"inputs":"x","parameters":{"temperature":NaN}}', 422,
         "Failed to deserialize the JSON body into the target type: "
         "parameters.temperature: Input should be a finite number"),
        (b'{"inputs":"x","parameters":{"top_k":2147483648}}', 422,
         "Failed to deserialize the JSON body into the target type: "
         "parameters.top_k: Input should be less than or equal to 2147483647"),
    ],
)  # fmt: skip
async def test_refusal(client: httpx.AsyncClient, content: bytes, status: int, text: str) -> None:
    response = await client.post("/generate", content=content, headers=JSON)
    assert (response.status_code, response.text) == (status, text)
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "parameters",
    [
        {"best_of": 1.0},
        {"best_of": True},
        {"best_of": "1"},
        {"do_sample": None},
        {"do_sample": 1},
        {"details": None},
        {"watermark": None},
        {"seed": -1},
        {"seed": 2**64},
        {"max_new_tokens": 2**32},
        {"temperature": 1e39},
        {"temperature": "1"},
        {"logit_bias": [1.0]},
        {"logit_bias": {"a": 1}},
    ],
    ids=str,
)
async def test_wrong_type(client: httpx.AsyncClient, parameters: dict[str, object]) -> None:
    response = await client.post("/generate", json={"inputs": "x", "parameters": parameters})
    assert response.status_code == 422
    assert f"parameters.{next(iter(parameters))}" in response.text


async def test_null_for_optional_and_unknown_fields_are_fine(client: httpx.AsyncClient) -> None:
    parameters = {"temperature": None, "top_k": None, "seed": None, "no_such_field": 1}
    response = await client.post("/generate", json={"inputs": "x", "parameters": parameters})
    assert response.status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", ""])
async def test_other_content_types(client: httpx.AsyncClient, content_type: str) -> None:
    headers = {"content-type": content_type}
    response = await client.post("/generate", content=b'{"inputs":"x"}', headers=headers)
    assert response.status_code == 415
    assert response.text == "Expected request with `Content-Type: application/json`"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/LD+JSON"])
async def test_json_content_types(client: httpx.AsyncClient, content_type: str) -> None:
    headers = {"content-type": content_type}
    response = await client.post("/generate", content=b'{"inputs":"x"}', headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_payload_limit(
    app_of: AppOf, connect: Callable[..., httpx.AsyncClient], chunked: bool
) -> None:
    body = b'{"inputs":"0123456789"}'

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 5):
            yield body[start : start + 5]

    statuses = []
    for limit in (len(body), len(body) - 1):
        async with connect(app_of(payload_limit=limit)) as client:
            content = pieces() if chunked else body
            response = await client.post("/generate", content=content, headers=JSON)
            statuses.append((response.status_code, response.text[:30]))
    assert statuses == [
        (200, '{"generated_text":"Hello big w'),
        (413, "Failed to buffer the request b"),
    ]
