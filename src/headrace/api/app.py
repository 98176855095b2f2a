"""The ASGI application: routes, middleware and documentation put together."""

import asyncio
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route as StarletteRoute

from headrace.api.endpoint import Endpoint, Route
from headrace.api.errors import Unauthorized
from headrace.api.middleware import ApiKey, RequestId, cross_origin
from headrace.api.openapi import document
from headrace.api.routes import routes_of
from headrace.api.service import Frontend, ServedModel, Service
from headrace.config import Settings
from headrace.observability.metrics import Metrics
from headrace.observability.tracing import Tracing


async def _empty_error(request: Request, error: Exception) -> Response:
    """404 and 405 without a body, as TGI answers them."""
    assert isinstance(error, HTTPException)
    return Response(status_code=error.status_code, headers=error.headers)


async def _named_error(request: Request, error: Exception) -> Response:
    """The same, but on paths of OpenAI's and Anthropic's clients in a shape that both can show."""
    if not request.url.path.startswith("/v1/"):
        return await _empty_error(request, error)
    assert isinstance(error, HTTPException)
    message = f"this server has no route {request.method} {request.url.path}"
    details = {"message": message, "type": "not_found_error", "param": None, "code": None}
    body = orjson.dumps({"type": "error", "error": details})
    return Response(body, error.status_code, error.headers, "application/json")


def _mounted(route: Route, service: Service) -> StarletteRoute:
    key = service.settings.api_key
    guard = []
    if key and not route.is_open:
        refusal = route.error_response(Unauthorized("the API key is missing or wrong"))
        guard = [Middleware(ApiKey, api_key=key, refusal=refusal)]
    return StarletteRoute(
        route.path, Endpoint(route, service), methods=[route.method], middleware=guard
    )


def _documentation(routes: Sequence[Route]) -> list[StarletteRoute]:
    page = files("headrace.api").joinpath("docs.html").read_text("utf-8")

    @cache
    def description() -> bytes:
        return orjson.dumps(document(routes))

    async def openapi(request: Request) -> Response:
        # Made when it is first asked for, which takes long enough to be felt by streams.
        return Response(await asyncio.to_thread(description), media_type="application/json")

    async def docs(request: Request) -> Response:
        return HTMLResponse(page)

    return [StarletteRoute("/api-doc/openapi.json", openapi), StarletteRoute("/docs", docs)]


def build_app(
    frontend: Frontend,
    settings: Settings,
    model: ServedModel,
    metrics: Metrics,
    tracing: Tracing | None = None,
) -> Starlette:
    """The server's ASGI application over a front end whose engine is ready."""
    service = Service(frontend, settings, model, metrics, tracing)
    routes = routes_of(settings)
    return Starlette(
        routes=[*(_mounted(route, service) for route in routes), *_documentation(routes)],
        middleware=[cross_origin(settings.cors_allow_origin), Middleware(RequestId)],
        exception_handlers={
            HTTPException: _empty_error if settings.tgi_compat else _named_error,
        },
    )
