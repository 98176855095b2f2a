"""The OpenAPI document, made of the route table and the bodies' schemas."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from headrace import __version__
from headrace.api.anthropic.errors import TYPES, to_anthropic_response
from headrace.api.endpoint import Route
from headrace.api.errors import KINDS, to_openai_response
from headrace.api.schema import Body
from headrace.api.tgi.platforms import to_vertex_response

REFERENCE = "#/components/schemas/{model}"


class ErrorResponse(Body):
    """Every error of TGI's routes, except refusals of unreadable bodies (plain text)."""

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

REFUSALS = {"400": "Not JSON", "413": "Too long", "415": "Not application/json",
            "422": "A field is wrong"}  # fmt: skip
TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


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
    """Responses other than 200, by status."""
    model = SHAPES.get(route.error_response, ErrorResponse)
    if model is AnthropicErrorResponse:
        return {str(status): {"description": name} | _json(model) for status, name in TYPES.items()}
    statuses = {422} | ({kind.status for kind in KINDS.values()} if route.generates else set())
    if route.error_response is to_vertex_response:
        statuses.add(500)
    errors = {str(s): {"description": "Error"} | _json(model) for s in sorted(statuses - {401})}
    refusal = _json(model) if model is OpenAIErrorResponse else TEXT
    for status, description in REFUSALS.items():
        content = errors.get(status, {}).get("content", {}) | refusal["content"]
        errors[status] = {"description": description, "content": content}
    return errors


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    bodies = {route.body for route in routes if route.body is not None}
    bodies |= {ErrorResponse, *SHAPES.values()}
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
