"""Sends one request over a pooled connection and records what comes back; judges nothing."""

import asyncio
import time

import orjson

from headrace.bench.connection import Address, Connection, Receive
from headrace.bench.errors import BenchError
from headrace.bench.record import Record
from headrace.bench.stream import EventStream
from headrace.bench.workload import Request

LONGEST_ERROR = 300


class Client:
    """Speaks to one server. Not bound to a number of connections: each running request has one."""

    def __init__(
        self, url: str, *, api_key: str | None, new_connection: bool, timeout: float
    ) -> None:
        """Raises `BenchError` when `url` cannot be used."""
        self.url = url
        self._address = Address.parse(url)
        self._new_connection = new_connection
        self._timeout = timeout
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._headers = f"Host: {self._address.host}:{self._address.port}\r\n"
        if api_key:
            self._headers += f"Authorization: Bearer {api_key}\r\n"

    async def send(self, request: Request, record: Record) -> None:
        """Fill `record`; whatever goes wrong ends up there, not in an exception."""
        stream = EventStream(record, request.cancel_after)
        failure: list[bytes] = []
        try:
            connection = await self._connection()

            def receive(body: bytes) -> None:
                if connection.status != 200:
                    failure.append(body)
                    return
                stream.feed(body, connection.last_received)
                if record.cancelled:
                    connection.close()

            await self._exchange(connection, "POST", request.route, request.body, receive)
            if connection.status != 200 and not record.cancelled:
                detail = b"".join(failure).decode(errors="replace")[:LONGEST_ERROR]
                record.error = f"HTTP {connection.status}: {detail}"
        except OSError as error:
            record.error = str(error) or type(error).__name__
        record.ended = time.perf_counter()

    async def first_model(self) -> str:
        """The first model the server lists. Raises `BenchError` when it lists none."""
        pieces: list[bytes] = []
        try:
            connection = await self._connection()
            await self._exchange(connection, "GET", "/models", b"", pieces.append)
            return str(orjson.loads(b"".join(pieces))["data"][0]["id"])
        except OSError as error:
            raise BenchError(f"{self.url}: {error or type(error).__name__}") from error
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            raise BenchError(f"{self.url}: /models lists no model; use --model") from error

    async def close(self) -> None:
        """Close all connections and wait for that."""
        lost = [connection.lost for connection in self._open]
        for connection in self._open:
            connection.abort()
        await asyncio.gather(*lost)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
        connection = await Connection.open(self._address)
        self._open.add(connection)
        connection.lost.add_done_callback(lambda _: self._open.discard(connection))
        return connection

    async def _exchange(
        self,
        connection: Connection,
        method: str,
        route: str,
        body: bytes,
        receive: Receive,
    ) -> None:
        head = (
            f"{method} {self._address.path}{route} HTTP/1.1\r\n{self._headers}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await connection.exchange(head.encode() + body, receive, self._timeout)
        if connection.is_reusable and not self._new_connection:
            self._idle.append(connection)
        else:
            connection.close()
