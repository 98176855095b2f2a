"""Pure ASGI middleware: API key, request id, cross-origin access."""

import re
import uuid
from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


def header(scope: Scope, name: bytes) -> bytes:
    """The value of a request header (lower-case name), or b""."""
    return next((value for key, value in scope["headers"] if key == name), b"")


class BearerAuth:
    """401 with an empty body unless the header is `Bearer <key>`.

    Like TGI it compares the whole header without regard to case, the key included.
    """

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"bearer {api_key}".lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = header(scope, b"authorization").lower()
        app: ASGIApp = self._app if given == self._expected else Response(status_code=401)
        await app(scope, receive, send)


class RequestId:
    """Answers with the client's `x-request-id`, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = header(scope, b"x-request-id")
        if not CLIENT_REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex.encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)


def cross_origin(allowed_origins: Sequence[str] | None) -> Middleware:
    """CORS for browsers. Any request header is allowed: TGI names only Content-Type, so that
    browsers can send neither an API key nor the extra headers of OpenAI's client."""
    return Middleware(
        CORSMiddleware,
        allow_origins=allowed_origins or ["*"],
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id"],
    )
