import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from headrace.bench.connection import Address, Connection
from headrace.bench.errors import BenchError


@asynccontextmanager
async def connected(answer: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[Connection]:
    """To a server that runs `answer` once per request and closes with its client."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = await Connection.open(Address.parse(f"http://127.0.0.1:{port}"))
    try:
        yield connection
    finally:
        connection.abort()
        await connection.lost
        server.close()
        await asyncio.sleep(0.01)


async def test_a_connection_is_used_again() -> None:
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with connected(answer) as connection:
        pieces: list[bytes] = []
        for _ in range(2):
            await connection.exchange(b"x", pieces.append, 1.0)
        assert pieces == [b"ok", b"ok"]
        assert connection.is_reusable


@pytest.mark.parametrize("header", [b"Connection: close\r\n", b""])
async def test_a_body_may_end_with_the_connection(header: bytes) -> None:
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + header + b"\r\nall of it")
        writer.close()

    async with connected(answer) as connection:
        pieces: list[bytes] = []
        await connection.exchange(b"x", pieces.append, 1.0)
        assert b"".join(pieces) == b"all of it"
        assert not connection.is_reusable


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_a_cut_response_is_an_error(response: bytes) -> None:
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        writer.close()

    async with connected(answer) as connection:
        with pytest.raises(ConnectionError, match="before the answer's end"):
            await connection.exchange(b"x", lambda body: None, 1.0)


async def test_not_http() -> None:
    async with connected(lambda writer: writer.write(b"220 smtp ready\r\n")) as connection:
        with pytest.raises(ConnectionError, match="not HTTP"):
            await connection.exchange(b"x", lambda body: None, 1.0)


async def test_silence_ends_in_a_timeout() -> None:
    async with connected(lambda writer: None) as connection:
        with pytest.raises(TimeoutError, match="nothing received for 0.05 s"):
            await connection.exchange(b"x", lambda body: None, 0.05)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host", Address("host", 80, False, "/v1")),
        ("http://host:8080/", Address("host", 8080, False, "/v1")),
        ("https://host/v3/", Address("host", 443, True, "/v3")),
        ("http://[::1]:1/v1", Address("::1", 1, False, "/v1")),
    ],
)
def test_addresses(url: str, expected: Address) -> None:
    assert Address.parse(url) == expected


@pytest.mark.parametrize("url", ["host:80", "ftp://host", "http://", "http://host:99999"])
def test_wrong_addresses(url: str) -> None:
    with pytest.raises(BenchError):
        Address.parse(url)
