"""TGI's validation rules: messages and their order as in the contract."""

from typing import Any

import httpx
import pytest

from tests.api.fake_frontend import FakeFrontend

SAMPLE = {"do_sample": True}

RULES: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"best_of": 3} | SAMPLE, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 0}, "`best_of` must be > 0 and <= 2. Given: 0"),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"temperature": -1}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"presence_penalty": -2.5}, "`presence_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1.5}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": -0.1}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"min_p": 1.1}, "`min_p` must be >= 0.0 and <= 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -3}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"seed": 1, "best_of": 2} | SAMPLE, "`seed` must not be set when `best_of` > 1"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 2047. Given: 0"),
    ({"truncate": 2048}, "`truncate` must be strictly positive and less than 2047. Given: 2048"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}},
     "`logit_bias` supports up to 1024 token ids. Given: 1025"),
    ({"logit_bias": {"1": 101}}, "`logit_bias` values must be >= -100 and <= 100"),
    ({"stop_token_ids": [1] * 129}, "`stop_token_ids` supports up to 128 token ids. Given: 129"),
    ({"min_new_tokens": 3, "max_new_tokens": 2},
     "`min_new_tokens` must be <= `max_new_tokens`. Given: 3 and 2"),
    ({"adapter_id": "mine"}, "`adapter_id` is not supported by this server"),
]  # fmt: skip

STREAM_RULES: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2} | SAMPLE, "`best_of` != 1 is not supported when streaming tokens"),
    (
        {"decoder_input_details": True},
        "`decoder_input_details` == true is not supported when streaming tokens",
    ),
]


async def assert_refused(client: httpx.AsyncClient, path: str, body: object, why: str) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 422
    assert response.json() == {
        "error": f"Input validation error: {why}",
        "error_type": "validation",
    }


@pytest.mark.parametrize(("parameters", "why"), RULES, ids=lambda value: str(value)[:40])
async def test_rule(
    client: httpx.AsyncClient, frontend: FakeFrontend, parameters: dict[str, Any], why: str
) -> None:
    await assert_refused(client, "/generate", {"inputs": "x", "parameters": parameters}, why)
    assert frontend.requests == []


@pytest.mark.parametrize(("parameters", "why"), STREAM_RULES)
async def test_rule_of_streams(
    client: httpx.AsyncClient, parameters: dict[str, Any], why: str
) -> None:
    body = {"inputs": "x", "parameters": parameters}
    await assert_refused(client, "/generate_stream", body, why)


async def test_empty_inputs(client: httpx.AsyncClient) -> None:
    await assert_refused(client, "/generate", {"inputs": ""}, "`inputs` cannot be empty")


async def test_first_broken_rule_is_reported(client: httpx.AsyncClient) -> None:
    """The contract's order, each rule unmasked by mending the one before."""
    parameters: dict[str, Any] = {
        "best_of": 2, "temperature": 0.0, "repetition_penalty": 0.0, "frequency_penalty": 3.0,
        "top_p": 2.0, "typical_p": 2.0, "top_k": 0, "max_new_tokens": 0, "stop": list("abcde"),
        "seed": 1, "top_n_tokens": 9, "truncate": 0,
    }  # fmt: skip
    for field in (
        "temperature", "repetition_penalty", "frequency_penalty", "top_p", "typical_p", "top_k",
        "max_new_tokens", "stop", "seed", "top_n_tokens",
    ):  # fmt: skip
        body = {"inputs": "", "parameters": parameters}
        response = await client.post("/generate", json=body)
        assert f"`{field}`" in response.json()["error"], field
        del parameters[field]
        # Keeps it sampling, which best_of asks for.
        parameters["do_sample"] = True
    response = await client.post("/generate", json={"inputs": "", "parameters": parameters})
    assert response.json()["error"] == "Input validation error: `inputs` cannot be empty"


async def test_one_is_allowed_for_top_p_and_typical_p(
    client: httpx.AsyncClient, frontend: FakeFrontend
) -> None:
    parameters = {"top_p": 1.0, "typical_p": 1.0}
    response = await client.post("/generate", json={"inputs": "x", "parameters": parameters})
    assert response.status_code == 200
    assert frontend.requests[0].top_p == 1.0
