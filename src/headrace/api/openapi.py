"""The OpenAPI document, made of the route table and the bodies' schemas."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from headrace import __version__
from headrace.api.endpoint import Route
from headrace.api.anthropic.errors import TYPES, to_anthropic_response
from headrace.api.errors import KINDS, to_openai_response
from headrace.api.schema import Body

REFERENCE = "#/components/schemas/{model}"


class ErrorResponse(Body):
    """Every error of a route, except refusals of unreadable bodies (plain text)."""

    error: str
    error_type: str


class ErrorDetails(Body):
    """What OpenAI's clients show."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorResponse(Body):
    """Every error of OpenAI's routes."""

    error: ErrorDetails
    error_type: str


class AnthropicErrorDetails(Body):
    """What Anthropic's clients show."""

    type: str
    message: str


class AnthropicErrorResponse(Body):
    """Every error of Anthropic's routes."""

    type: Literal["error"]
    error: AnthropicErrorDetails


SHAPES: dict[Callable[..., Response], type[BaseModel]] = {
    to_openai_response: OpenAIErrorResponse,
    to_anthropic_response: AnthropicErrorResponse,
}
"""The errors' schema by the function that writes them, where it is not TGI's."""


def _json(model: type[BaseModel]) -> dict[str, Any]:
    reference = {"$ref": REFERENCE.format(model=model.__name__)}
    return {"content": {"application/json": {"schema": reference}}}


def _operation(route: Route) -> dict[str, Any]:
    name = route.path.strip("/").replace("/", "_") or "root"
    responses: dict[str, Any] = {"200": {"description": "Success"}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": route.handler.__doc__,
        "operationId": f"{route.method.lower()}_{name}",
        "responses": responses,
        "security": [] if route.is_open else [{"key": []}],
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True} | _json(route.body)
        responses |= _errors(route)
    if not route.is_open and "401" not in responses:
        responses["401"] = {"description": "Missing or wrong API key"}
    return operation


def _errors(route: Route) -> dict[str, Any]:
    if route.error_response is to_anthropic_response:
        statuses = set(TYPES)
    else:
        statuses = REFUSALS | {422} | ({kind.status for kind in KINDS.values()} - {401} if route.generates else {422})
    return {}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    bodies = {route.body for route in routes if route.body is not None} | {ErrorResponse}
    models = [(body, "validation") for body in sorted(bodies, key=lambda body: body.__name__)]
    _, definitions = models_json_schema(models, ref_template=REFERENCE)  # type: ignore[arg-type]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
