"""The reference in the docs is what the code does."""

import dataclasses
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from headrace import config
from headrace.api import reference
from headrace.api.parameters import GenerateParameters
from headrace.api.routes import ROUTES
from headrace.errors import StartupError

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference.md"
FLAGS = [field for field in dataclasses.fields(config.Settings) if field.name != "env"]
BODY = {
    "inputs": "x", "messages": [{"role": "user", "content": "x"}], "model": "m", "max_tokens": 3,
}  # fmt: skip
REFUSED = [
    (body, name) for body, unsupported in reference.UNSUPPORTED.items() for name in unsupported
]


def test_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == reference.render(), (
        "run: python -m headrace.api.reference > docs/reference.md"
    )


@pytest.mark.parametrize("field", FLAGS, ids=lambda field: field.name)
def test_status_of_a_flag_is_what_setting_it_does(field: Any) -> None:
    option, status = "--" + field.name.replace("_", "-"), reference.flag_status(field)
    changed = {bool: not field.default, int: 7, float: 0.7, str: "other"}
    value = changed.get(type(field.default), "7")
    if status.startswith("rejected"):
        with pytest.raises(StartupError, match=option):
            config.resolve({field.name: value}, {})
    elif status.startswith("no effect"):
        _, warnings = config.resolve({field.name: value}, {})
        assert any(option in warning for warning in warnings)
    else:
        assert status == "supported"


@pytest.mark.parametrize(
    ("body", "name"), REFUSED, ids=lambda value: getattr(value, "__name__", value)
)
async def test_refused_fields_are_refused_by_name(
    client: httpx.AsyncClient, body: type[BaseModel], name: str
) -> None:
    sent: dict[str, Any] = dict(BODY)
    field: dict[str, Any] = {name: True if _is_flag(body, name) else {"type": "x"}}
    if body is GenerateParameters:
        path, sent = "/generate", {"inputs": "x", "parameters": field}
    else:
        path = next(r.path for r in ROUTES if r.body is body and not r.is_open)
        sent |= {"prompt": "x"} if path == "/v1/completions" else {}
        sent |= {"input": "x"} if path == "/v1/responses" else {}
        sent |= field
    response = await client.post(path, json=sent)
    assert response.status_code in {400, 422}
    assert f"`{name}`" in response.text


def _is_flag(body: type[BaseModel], name: str) -> bool:
    return "bool" in str(body.model_fields[name].annotation)


@pytest.mark.parametrize("body", [route.body for route in ROUTES if route.body is not None])
def test_every_field_is_in_the_document(body: type[BaseModel]) -> None:
    text = DOCUMENT.read_text()
    for name in body.model_fields:
        if name != "root":
            assert f"| `{name}` |" in text
