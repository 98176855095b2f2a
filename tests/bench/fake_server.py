"""A small OpenAI server over a real socket that answers with made-up words and can misbehave.

Independent of the code under test: plain asyncio streams, the standard library's json.
"""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

Frames = list[bytes]
"""SSE payloads: one per token, then finish, usage and [DONE]; `DROP` breaks the connection off."""
DROP = b"\x00drop"
STALL = b"\x00stall"
NUM_ENDING = 3
"""Frames after the last token."""


def _event(**fields: Any) -> bytes:
    return json.dumps({"id": "x", "object": "text_completion", **fields}).encode()


def _edit(frames: Frames, kind: str) -> Frames:
    tokens, (finish, usage, done) = frames[:-NUM_ENDING], frames[-NUM_ENDING:]
    middle = len(tokens) // 2
    edited: dict[str, Callable[[], Frames]] = {
        "drop": lambda: [*tokens[:middle], DROP],
        "stall": lambda: [*tokens[:middle], STALL],
        "empty": lambda: [finish, usage, done],
        "double": lambda: [*tokens[:middle], tokens[middle], *tokens[middle:], finish, usage, done],
        "lost": lambda: [*tokens[:middle], *tokens[middle + 1 :], finish, usage, done],
        "no-done": lambda: [*tokens, finish, usage],
        "two-done": lambda: [*tokens, finish, usage, done, done],
        "no-finish": lambda: [*tokens, usage, done],
        "two-finish": lambda: [*tokens, finish, finish, usage, done],
        "text-after-finish": lambda: [*tokens[:-1], finish, tokens[-1], usage, done],
        "no-usage": lambda: [*tokens, finish, done],
        "error-event": lambda: [*tokens[:middle], b'{"error":{"message":"out of luck"}}', done],
        "garbage": lambda: [*tokens, b'{"choices":', finish, usage, done],
        "wrong-shape": lambda: [*tokens, b"[1]", finish, usage, done],
    }
    return edited[kind]()


@dataclass
class FakeServer:
    """Use as a context manager; serves from a thread with an event loop of its own.

    `misbehaviour` concerns every `every`-th completion; `num_tokens` None: as many as asked for.
    """

    misbehaviour: str | None = None
    every: int = 1
    num_tokens: int | None = None
    delay: float = 0.0
    """Seconds before each token."""
    cached_tokens: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    num_connections: int = 0
    num_disconnects: int = 0
    """Streams that the client left before their end."""
    max_running: int = 0
    _running: int = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                body = await reader.readexactly(length)
                if head.startswith("get /v1/models "):
                    _write_json(writer, 200, {"data": [{"id": "fake-model"}]})
                else:
                    await self._complete(writer, head, json.loads(body))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _complete(
        self, writer: asyncio.StreamWriter, head: str, body: dict[str, Any]
    ) -> None:
        self.bodies.append(body)
        self.headers.append(head)
        misbehaves = self.misbehaviour and len(self.bodies) % self.every == 0
        if misbehaves and self.misbehaviour == "status":
            _write_json(writer, 503, {"error": {"message": "Model is overloaded"}})
            return
        frames = self._frames(body, salted=misbehaves and self.misbehaviour == "other-text")
        if misbehaves and self.misbehaviour != "other-text":
            assert self.misbehaviour
            frames = _edit(frames, self.misbehaviour)
        self._running += 1
        self.max_running = max(self.max_running, self._running)
        try:
            await self._stream(writer, frames)
        except ConnectionError:
            self.num_disconnects += 1
            raise
        finally:
            self._running -= 1

    async def _stream(self, writer: asyncio.StreamWriter, frames: Frames) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for frame in frames:
            if frame == DROP:
                writer.transport.abort()
                raise ConnectionError
            if frame == STALL:
                await asyncio.sleep(3600)
            await asyncio.sleep(self.delay)
            if writer.is_closing():
                raise ConnectionError
            data = b"data: " + frame + b"\n\n"
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    def _frames(self, body: dict[str, Any], salted: bool | None) -> Frames:
        is_chat = "messages" in body
        num_tokens = self.num_tokens or body["max_tokens"]
        prompt = json.dumps(body.get("messages") or body["prompt"]) + ("salt" if salted else "")
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        tokens = [f" {digest[i % 60 : i % 60 + 4]}" for i in range(num_tokens)]
        usage = {
            "prompt_tokens": len(prompt.split()),
            "completion_tokens": num_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        return [
            *(_event(choices=[_choice(token, body, is_chat)]) for token in tokens),
            _event(choices=[{"index": 0, "delta": {}, "text": "", "finish_reason": "length"}]),
            _event(choices=[], usage=usage),
            b"[DONE]",
        ]


def _choice(token: str, body: dict[str, Any], is_chat: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": None}
    if is_chat:
        choice["delta"] = {"content": token}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": token, "logprob": -1.0}]}
    else:
        choice["text"] = token
        if "logprobs" in body:
            choice["logprobs"] = {"tokens": [token], "token_logprobs": [-1.0]}
    return choice


def _write_json(writer: asyncio.StreamWriter, status: int, document: Any) -> None:
    body = json.dumps(document).encode()
    writer.write(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
