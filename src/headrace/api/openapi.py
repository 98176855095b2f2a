"""The OpenAPI document, made of the route table and the bodies' schemas."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from headrace import __version__
from headrace.api.endpoint import Route
from headrace.api.errors import KINDS
from headrace.api.schema import Body

REFERENCE = "#/components/schemas/{model}"


class ErrorResponse(Body):
    """Every error of a route, except refusals of unreadable bodies (plain text)."""

    error: str
    error_type: str


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
        refusals = {"400": "Not JSON", "413": "Too long", "415": "Not application/json"}
        responses |= {status: {"description": text} for status, text in refusals.items()}
        responses["422"] = {"description": "A field is wrong"} | _json(ErrorResponse)
    if route.generates:
        statuses = sorted({kind.status for kind in KINDS.values()} - {422})
        responses |= {str(s): {"description": "Error"} | _json(ErrorResponse) for s in statuses}
    if not route.is_open:
        responses["401"] = {"description": "Missing or wrong API key"}
    return operation


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
