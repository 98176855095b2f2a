"""What the load generator itself costs: its CPU time per token against a trivial SSE server.

Run by hand: `python tests/bench/client_cost.py [streams ...]`. The server, a process of its own,
writes ready-made bytes, each token on its own, so that the client cannot save work by batching.
"""

import asyncio
import contextlib
import io
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import orjson

from headrace.bench import main

NUM_TOKENS = 256
PAUSE = 0.004  # seconds between two tokens of a stream


def _chunk(payload: bytes) -> bytes:
    data = b"data: " + payload + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


TOKEN = _chunk(
    b'{"id":"cmpl-0123456789abcdef","object":"text_completion","created":1700000000,'
    b'"model":"fake-model","choices":[{"index":0,"text":" word","logprobs":null,'
    b'"finish_reason":null}],"usage":null}'
)
END = (
    _chunk(b'{"choices":[{"index":0,"text":"","finish_reason":"length"}]}')
    + _chunk(b'{"choices":[],"usage":{"prompt_tokens":64,"completion_tokens":%d}}' % NUM_TOKENS)
    + _chunk(b"[DONE]")
    + b"0\r\n\r\n"
)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.read(1 << 16):  # A request fits into one read here.
        assert head.startswith(b"POST")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(NUM_TOKENS):
            writer.write(TOKEN)
            await asyncio.sleep(PAUSE)
        writer.write(END)
    writer.close()


def _serve(pipe: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def measure(port: int, streams: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "out.json"
        cpu, wall = time.process_time(), time.perf_counter()
        arguments = ["--url", f"http://127.0.0.1:{port}", "--model", "fake-model", "--warmup", "0"]
        arguments += ["--streams", str(streams), "--max-tokens", str(NUM_TOKENS)]
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*arguments, "--json", str(file)]) == 0
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        (run,) = orjson.loads(file.read_bytes())["runs"]
    num_tokens = run["total_output_tokens"]
    print(
        f"{streams} streams: {cpu / num_tokens * 1e6:.1f} us of CPU per token"
        f" ({num_tokens} tokens, {cpu:.2f} s CPU in {wall:.2f} s)"
    )


if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    server.start()
    try:
        port = ours.recv()
        for streams in map(int, sys.argv[1:] or ("1", "8", "32")):
            measure(port, streams)
    finally:
        server.terminate()
