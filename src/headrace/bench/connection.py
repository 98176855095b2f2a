"""One HTTP/1.1 connection: a request goes out, pieces of the body come back by callback.

Callbacks instead of awaits: one wake-up per request, not one per token. Knows nothing of JSON.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from headrace.bench.errors import BenchError

CONNECT_TIMEOUT = 30.0  # seconds

Receive = Callable[[bytes], None]
"""Takes each piece of a response body as it comes."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int
    tls: bool
    path: str
    """Prefix of all routes, without a slash at the end."""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Raises `BenchError` when `url` is not http:// or https:// with a host."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BenchError(f"{url!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BenchError(f"{url!r} is no URL like http://127.0.0.1:8080")
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/") or "/v1"
        return cls(parts.hostname, port or (443 if tls else 80), tls, path)


class Connection(asyncio.Protocol):
    """Carries one exchange at a time; `receive` of the running one gets each piece of its body."""

    def __init__(self) -> None:
        self.status = 0
        self.last_received = 0.0
        self.is_reusable = True
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the socket is closed."""
        self._parser = httptools.HttpResponseParser(self)
        self._finished: asyncio.Future[None] | None = None
        self._has_length = False
        self._ends_with_connection = False

    @classmethod
    async def open(cls, address: Address) -> "Connection":
        """Raises `OSError` (`TimeoutError` included) when the server cannot be reached."""
        context = ssl.create_default_context() if address.tls else None
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, connection = await asyncio.get_running_loop().create_connection(
                cls, address.host, address.port, ssl=context
            )
        return connection

    async def exchange(self, request: bytes, receive: Receive, timeout: float) -> None:
        """Returns when the response is complete, or this side closed the connection.

        Raises `ConnectionError` when it broke off, and `TimeoutError` after `timeout` seconds
        without a byte.
        """
        self._receive = receive
        self._finished = finished = asyncio.get_running_loop().create_future()
        self.last_received = time.perf_counter()
        self._transport.write(request)
        try:
            while not finished.done():
                silence = time.perf_counter() - self.last_received
                if silence >= timeout:
                    raise TimeoutError(f"nothing received for {timeout:g} s")
                await asyncio.wait({finished}, timeout=timeout - silence)
            finished.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up; a running exchange ends without an error."""
        self._finish(None)
        self.is_reusable = False
        self._transport.close()

    def abort(self) -> None:
        """Close the socket without waiting for anything to be sent."""
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self.last_received = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(ConnectionError(f"not HTTP/1.1: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_reusable = False
        self.lost.set_result(None)
        broken = ConnectionError("the server closed the connection before the answer's end")
        self._finish(None if self._ends_with_connection else broken)

    # httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        self._has_length = self._ends_with_connection = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._ends_with_connection = not self._has_length

    def on_body(self, body: bytes) -> None:
        self._receive(body)

    def on_message_complete(self) -> None:
        self.is_reusable = self.is_reusable and self._parser.should_keep_alive()
        self._finish(None)

    def _finish(self, error: ConnectionError | None) -> None:
        if self._finished is None or self._finished.done():
            return
        if error is None:
            self._finished.set_result(None)
        else:
            self._finished.set_exception(error)
