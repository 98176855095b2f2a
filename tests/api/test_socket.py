"""Over a real socket: bytes on the wire, keep-alive, and clients that go away."""

import asyncio
from collections.abc import Callable

import orjson
import pytest

from headrace.api import events
from headrace.errors import GenerationError
from tests.api.conftest import AppOf
from tests.api.fake_frontend import FakeFrontend
from tests.api.live_server import server_at


async def post(
    port: int, path: str, body: object
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = orjson.dumps(body)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    return reader, writer


def chunks_of(raw: bytes) -> list[bytes]:
    """Undo HTTP's chunked encoding, keeping the cuts."""
    chunks = []
    while raw:
        size, raw = raw.split(b"\r\n", 1)
        chunks.append(raw[: int(size, 16)])
        raw = raw[int(size, 16) + 2 :]
    assert chunks.pop() == b""
    return chunks


async def until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


async def test_every_token_is_a_chunk_of_its_own(app_of: AppOf) -> None:
    async with server_at(app_of()) as port:
        reader, writer = await post(port, "/generate_stream", {"inputs": "x"})
        answer = await reader.read()
        writer.close()
    head, raw = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    chunks = chunks_of(raw)
    assert len(chunks) == 3
    assert chunks[0] == (
        b'data: {"index":1,"token":{"id":10,"text":"Hello","logprob":-0.25,"special":false},'
        b'"generated_text":null,"details":null}\n\n'
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "x"}),
        ("/generate_stream", {"inputs": "x"}),
        ("/v1/completions", {"prompt": ["x", "y"]}),
        ("/v1/completions", {"prompt": ["x", "y"], "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 2}),
    ],
)
@pytest.mark.parametrize("hangs_after", [0, 1])
async def test_generation_ends_when_the_client_goes(
    app_of: AppOf, frontend: FakeFrontend, path: str, body: object, hangs_after: int
) -> None:
    frontend.hangs_after = hangs_after
    async with server_at(app_of()) as port:
        _, writer = await post(port, path, body)
        prompts = 2 if "prompt" in str(body) else 1
        await until(lambda: frontend.num_running == prompts)
        await asyncio.sleep(0.02)
        assert frontend.num_running == prompts
        writer.close()
        await until(lambda: frontend.num_running == 0)
        assert frontend.num_closed_early == prompts


async def test_silence_is_filled_with_comments(
    app_of: AppOf, frontend: FakeFrontend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.02)
    frontend.words, frontend.pause = ("a", "b"), 0.3
    frontend.error, frontend.fails_after = GenerationError("no"), 1
    async with server_at(app_of()) as port:
        reader, writer = await post(port, "/generate_stream", {"inputs": "x"})
        answer = await reader.read()
        writer.close()
    head, raw = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    *comments, token, error = (chunk[:9] for chunk in chunks_of(raw))
    assert len(comments) >= 2 and set(comments) == {b":\n\n"}
    assert (token, error) == (b'data: {"i', b'data: {"e')


async def test_a_stream_that_is_not_read_does_not_grow(
    app_of: AppOf, frontend: FakeFrontend
) -> None:
    frontend.words = ["x" * 100_000] * 400
    async with server_at(app_of()) as port:
        _, writer = await post(port, "/generate_stream", {"inputs": "x"})
        await until(lambda: frontend.num_running == 1)
        await asyncio.sleep(0.1)
        assert frontend.num_running == 1, "40 MB must not fit into the buffers"
        writer.close()
        await until(lambda: frontend.num_running == 0)
