import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from headrace.types import Grammar
from tests.api.conftest import AppOf
from tests.api.fake_frontend import FakeFrontend

MESSAGES = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
JSON_GRAMMAR = Grammar(kind="json", source=json.dumps(SCHEMA))
TGI_SPELLINGS: list[tuple[dict[str, Any], Grammar | None]] = [
    ({"type": "json", "value": SCHEMA}, JSON_GRAMMAR),
    (
        {"type": "json", "value": json.dumps(SCHEMA)},
        JSON_GRAMMAR,
    ),
    ({"type": "json_object", "value": SCHEMA}, JSON_GRAMMAR),
    (
        {"type": "json_schema", "value": {"name": "x", "schema": SCHEMA}},
        JSON_GRAMMAR,
    ),
    ({"type": "regex", "value": "[a-z]+"}, Grammar(kind="regex", source="[a-z]+")),
    ({"type": "lark", "value": 'start: "a"'}, Grammar(kind="lark", source='start: "a"')),
]
OPENAI_SPELLINGS: list[tuple[dict[str, Any], Grammar | None]] = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, Grammar(kind="json", source='{"type": "object"}')),
    (
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        JSON_GRAMMAR,
    ),
    (
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
        Grammar(kind="json", source='{"type": "array"}'),
    ),
    (
        {"type": "json_schema", "json_schema": {"name": "x"}},
        Grammar(kind="json", source='{"type": "object"}'),
    ),
]
INVALID: list[tuple[dict[str, Any], str]] = [
    ({"type": "json", "value": {"type": "array"}}, "Grammar must have a 'properties' field"),
    ({"type": "json"}, "a json needs a schema: an object, or its text"),
    ({"type": "json", "value": "{"}, "unexpected end of data: line 1 column 2 (char 1)"),
    ({"type": "json", "value": [1]}, "a json needs a schema: an object, or its text"),
    ({"type": "json_schema"}, "a json_schema needs a schema: an object, or its text"),
    ({"type": "regex"}, "`value` of a regex must be a string"),
    ({"type": "lark", "value": {}}, "`value` of a lark must be a string"),
]


def assert_same(given: Grammar | None, expected: Grammar | None) -> None:
    if expected is None or given is None or expected.kind != "json":
        assert given == expected
    else:
        assert given.kind == "json"
        # The order of properties is part of a schema's meaning here.
        assert json.dumps(json.loads(given.source)) == expected.source


@pytest.mark.parametrize(("form", "grammar"), TGI_SPELLINGS, ids=str)
async def test_native(
    client: httpx.AsyncClient, frontend: FakeFrontend, form: dict[str, Any], grammar: Grammar
) -> None:
    body = {"inputs": "x", "parameters": {"grammar": form}}
    assert (await client.post("/generate", json=body)).status_code == 200
    assert_same(frontend.requests[0].grammar, grammar)


@pytest.mark.parametrize(("form", "grammar"), TGI_SPELLINGS + OPENAI_SPELLINGS, ids=str)
@pytest.mark.parametrize(
    ("path", "prompt"),
    [("/v1/chat/completions", {"messages": MESSAGES}), ("/v1/completions", {"prompt": "x"})],
)
async def test_response_format(
    client: httpx.AsyncClient,
    frontend: FakeFrontend,
    path: str,
    prompt: dict[str, Any],
    form: dict[str, Any],
    grammar: Grammar | None,
) -> None:
    response = await client.post(path, json=prompt | {"response_format": form})
    assert response.status_code == 200
    assert_same(frontend.requests[0].grammar, grammar)


@pytest.mark.parametrize(("form", "why"), INVALID, ids=str)
async def test_invalid(
    client: httpx.AsyncClient, frontend: FakeFrontend, form: dict[str, Any], why: str
) -> None:
    body = {"inputs": "x", "parameters": {"grammar": form}}
    response = await client.post("/generate", json=body)
    assert response.status_code == 422
    assert response.json() == {
        "error": f"Input validation error: grammar is not valid: {why}",
        "error_type": "validation",
    }
    assert frontend.requests == []


async def test_unknown_types_are_named(client: httpx.AsyncClient) -> None:
    body = {"messages": MESSAGES, "response_format": {"type": "yaml"}}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 422
    assert "response_format.type" in response.text


async def test_two_names_for_one_thing_exclude_each_other(client: httpx.AsyncClient) -> None:
    form = {"type": "json_object"}
    body = {"prompt": "x", "response_format": form, "grammar": form}
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 422
    assert "`response_format` and `grammar` are mutually exclusive" in response.text


async def test_grammars_can_be_switched_off(app_of: AppOf, connect: Any) -> None:
    body = {"inputs": "x", "parameters": {"grammar": {"type": "regex", "value": "a"}}}
    async with connect(app_of(disable_grammar_support=True)) as client:
        response = await client.post("/generate", json=body)
    assert response.status_code == 422
    assert response.json()["error"] == "Input validation error: grammar is not supported"


async def test_the_official_client_parses(
    client: httpx.AsyncClient, frontend: FakeFrontend
) -> None:
    """`parse` sends pydantic's schema as `response_format`."""

    class Answer(BaseModel):
        a: int

    frontend.words = ('{"a"', ": 3}")
    official = openai.AsyncOpenAI(base_url="http://server/v1", api_key="-", http_client=client)
    answer = await official.chat.completions.parse(
        model="tgi",
        messages=MESSAGES,
        response_format=Answer,  # type: ignore[arg-type]
    )
    assert answer.choices[0].message.parsed == Answer(a=3)
    grammar = frontend.requests[0].grammar
    assert grammar is not None and json.loads(grammar.source)["additionalProperties"] is False
