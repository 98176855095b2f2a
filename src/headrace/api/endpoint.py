"""From ASGI to a handler and back: body in, response out, errors mapped, disconnects noticed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace.api.body import parse_body, read_body
from headrace.api.errors import Refusal, kind_of, to_tgi_response
from headrace.api.events import EventStream
from headrace.api.service import Service
from headrace.errors import HeadraceError

Handler = Callable[..., Awaitable[Response | EventStream]]
"""`handler(service)`, or `handler(service, body)` for a route with a body."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """One line of the route table."""

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    is_open: bool = False
    """True: answered without the API key."""
    generates: bool = False
    """True: counted in the request metrics."""
    error_response: Callable[[HeadraceError], Response] = to_tgi_response


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`; cancel it, and wait for its clean-up, as soon as the client is gone."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
    if not working.cancelled():
        working.result()


class Endpoint:
    """The ASGI application of one route."""

    def __init__(self, route: Route, service: Service) -> None:
        self._route = route
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._route.body is None:
            await self._answer((), scope, receive, send)
            return
        try:
            raw = await read_body(scope, receive, self._service.settings.payload_limit)
            body = parse_body(self._route.body, raw)
        except ClientDisconnect:
            return
        except Refusal as refusal:
            await self._route.error_response(refusal)(scope, receive, send)
            return
        await run_while_connected(receive, self._answer((body,), scope, receive, send))

    async def _answer(
        self, arguments: tuple[BaseModel, ...], scope: Scope, receive: Receive, send: Send
    ) -> None:
        response: Response | EventStream | None = None
        try:
            with self._observed(scope):
                response = await self._route.handler(self._service, *arguments)
                await response(scope, receive, send)
        except HeadraceError as error:
            if not (isinstance(response, EventStream) and response.is_begun):
                await self._route.error_response(error)(scope, receive, send)

    @contextmanager
    def _observed(self, scope: Scope) -> Iterator[None]:
        """Count and trace what generates."""
        if not self._route.generates:
            yield
            return
        with self._traced(scope), self._service.metrics.request(lambda e: kind_of(e).label):
            yield

    def _traced(self, scope: Scope) -> AbstractContextManager[None]:
        if self._service.tracing is None:
            return nullcontext()
        name = self._route.handler.__name__
        return self._service.tracing.request(name, Headers(scope=scope))
