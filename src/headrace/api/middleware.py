"""Pure ASGI middleware: API key, request id, cross-origin access."""

import re
import uuid
from collections.abc import Sequence
from hmac import compare_digest

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


def header(scope: Scope, name: bytes) -> bytes:
    """The value of a request header (lower-case name), or b""."""
    return next((value for key, value in scope["headers"] if key == name), b"")


class ApiKey:
    """`refusal` unless there is `Authorization: Bearer <key>` or, as Anthropic's clients send it,
    `x-api-key: <key>`.

    Like TGI it compares without regard to case, that of the key included.
    """

    def __init__(self, app: ASGIApp, api_key: str, refusal: Response) -> None:
        self._app = app
        self._refusal = refusal
        self._key = api_key.lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bearer = header(scope, b"authorization").lower()
        key = header(scope, b"x-api-key").lower()
        # Both are compared, and in constant time, so that timing tells nothing of the key.
        is_allowed = compare_digest(bearer, b"bearer " + self._key) | compare_digest(key, self._key)
        app: ASGIApp = self._app if is_allowed else self._refusal
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
