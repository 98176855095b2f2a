"""The server as a process: start, load, death of its engine, stop."""

import asyncio
import json
import random
import signal
import socket
import time

import httpx
import pytest

from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

BODY = {"inputs": "Once upon a time there was", "parameters": {"max_new_tokens": 48}}


async def stream_text(client: httpx.AsyncClient, body: dict[str, object]) -> str:
    """The final `generated_text` of a native stream; fails on an error or a missing end."""
    text = None
    async with client.stream("POST", "/generate_stream", json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                event = json.loads(line[5:])
                assert "error" not in event, event
                assert text is None, "an event after the last one"
                text = event["generated_text"]
    assert text is not None, "the stream has no end"
    return str(text)


def test_banner_and_log(server: ServerProcess) -> None:
    assert "Connected" in server.output
    assert f"http://127.0.0.1:{server.port}" in server.output
    assert "curl" in server.output


async def test_cancelled_requests_return_their_blocks(server: ServerProcess) -> None:
    """200 requests of random length, a third cut by the client."""
    choose = random.Random(0)
    gate = asyncio.Semaphore(32)

    async def one(client: httpx.AsyncClient, index: int) -> None:
        prompt = " ".join(choose.choice(["river", "stone", "light", "wheel"]) for _ in range(
            choose.randint(1, 200)))  # fmt: skip
        parameters = {"max_new_tokens": choose.randint(1, 40)}
        body = {"inputs": prompt, "parameters": parameters}
        events = choose.randint(1, 8) if index % 3 == 0 else 10**6
        async with gate, client.stream("POST", "/generate_stream", json=body) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                events -= line.startswith("data:")
                if not events:
                    return

    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=httpx.Limits()) as client:
        await asyncio.gather(*(one(client, index) for index in range(200)))
        deadline = time.monotonic() + 10
        while server.metric("tgi_batch_current_size") or server.metric("tgi_queue_size"):
            assert time.monotonic() < deadline, "requests were left behind"
            await asyncio.sleep(0.1)
        assert server.metric("headrace_kv_cache_usage_ratio") == 0, "blocks were left behind"
        assert await stream_text(client, BODY)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_streams_survive_the_death_of_an_engine(replicas: int) -> None:
    with ServerProcess("--num-replica", str(replicas)) as server:
        server.wait_ready()
        bodies = [
            {
                "inputs": f"Chapter {index}. Once upon a time",
                "parameters": {"max_new_tokens": 64, "do_sample": index % 2 == 1, "seed": index},
            }
            for index in range(8)
        ]
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            undisturbed = await asyncio.gather(*(stream_text(client, body) for body in bodies))
            streams = [asyncio.create_task(stream_text(client, body)) for body in bodies]
            await asyncio.sleep(0.3)
            first = server.engines
            assert len(first) == replicas
            first[0].kill()
            assert await asyncio.gather(*streams) == undisturbed
            assert first[0] not in server.engines
            assert server.metric("headrace_engine_deaths") == 1
            assert (await client.get("/health")).status_code == 200


async def test_sigterm_drains() -> None:
    with ServerProcess() as server:
        server.wait_ready()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            stream = asyncio.create_task(stream_text(client, BODY))
            await asyncio.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            assert await stream
        assert await asyncio.to_thread(server.process.wait, 20) == 0


def test_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with ServerProcess("--port", str(port)) as server:
            assert server.process.wait(30) == 1
            assert str(port) in server.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model-id", "./no-such-folder"], "no-such-folder"),
        (["--max-input-tokens", "10", "--max-total-tokens", "10"], "--max-total-tokens"),
    ],
)
def test_start_up_errors_are_one_line(arguments: list[str], message: str) -> None:
    with ServerProcess(*arguments) as server:
        assert server.process.wait(30) == 1
        last = server.output.strip().splitlines()[-1]
        assert last.startswith("Error: ") and message in last
        assert "Traceback" not in server.output
