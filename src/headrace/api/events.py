"""A streamed answer: server-sent events out of text deltas.

Hot: runs once per token and stream. Bytes go straight to the server; no task group, no schema.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import orjson
from starlette.types import Receive, Scope, Send

from headrace.errors import HeadraceError
from headrace.text.generation import TextDelta

KEEP_ALIVE_SECONDS = 15.0


class Encoder(Protocol):
    """One dialect's bytes for one stream; keeps what it must remember between deltas."""

    def delta(self, delta: TextDelta) -> bytes:
        """The events for one delta, framed; may be empty."""
        ...

    def end(self) -> bytes:
        """The events after the last delta."""
        ...

    def error(self, error: HeadraceError) -> bytes:
        """The events that end a stream in which generation failed."""
        ...


def frame(data: bytes) -> bytes:
    """One server-sent event. TGI's clients depend on the space."""
    return b"data: " + data + b"\n\n"


def named_frame(event: dict[str, Any]) -> bytes:
    """One server-sent event that carries its type as its name too."""
    return b"event: " + event["type"].encode() + b"\n" + frame(orjson.dumps(event))


class EventStream:
    """An ASGI response that sends what `deltas` yields.

    The status line waits for the first delta, so that a request refused by the front end gets its
    real status; after 15 s of silence it goes out with a keep-alive comment instead, and later
    errors become events. Such errors are raised again once they are sent.
    """

    def __init__(
        self, deltas: AsyncGenerator[TextDelta, None], encoder: Encoder, headers: Mapping[str, str]
    ) -> None:
        self.is_begun = False
        self._deltas = deltas
        self._encoder = encoder
        self._headers = {
            "content-type": "text/event-stream",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            **headers,
        }
        self._last_write = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keep_alive = asyncio.create_task(self._keep_alive(send))
        try:
            async with aclosing(self._deltas) as deltas:
                async for delta in deltas:
                    await self._write(send, self._encoder.delta(delta))
            await self._write(send, self._encoder.end())
        except HeadraceError as error:
            if self.is_begun:
                await self._write(send, self._encoder.error(error))
                await send({"type": "http.response.body", "body": b""})
            raise
        finally:
            keep_alive.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _write(self, send: Send, data: bytes) -> None:
        if not self.is_begun:
            self.is_begun = True
            headers = [(key.encode(), value.encode()) for key, value in self._headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        if data:
            self._last_write = asyncio.get_running_loop().time()
            await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._last_write = loop.time()
        while True:
            silence = loop.time() - self._last_write
            if silence >= KEEP_ALIVE_SECONDS:
                await self._write(send, b":\n\n")
                silence = 0.0
            await asyncio.sleep(KEEP_ALIVE_SECONDS - silence)
