"""A model on three ranks: the death of any process that takes part in a step."""

import asyncio
import time

import httpx
import psutil
import pytest

from tests.e2e.server import ServerProcess
from tests.e2e.test_process import stream_text

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

STREAMS = 32
PREFIX = "A long prefix that all of them share, so that the cache of prefixes is in use as well. "


def body(index: int) -> dict[str, object]:
    """Greedy and sampled, with and without a grammar."""
    parameters: dict[str, object] = {"max_new_tokens": 24, "seed": index}
    if index % 2:
        parameters["do_sample"] = True
    if index % 4 == 2:
        parameters["grammar"] = {"type": "regex", "value": "[a-z ]{30,60}\\."}
    return {"inputs": f"{PREFIX * 3}Chapter {index}. Once upon a time", "parameters": parameters}


def parts(server: ServerProcess) -> list[psutil.Process]:
    """Rank 0, which is the engine, and the others."""
    return [server.engine, *server.engine.children()]


async def wait_until_gone(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 10
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        assert time.monotonic() < deadline, "a rank outlived its group"
        await asyncio.sleep(0.05)


async def test_streams_survive_the_death_of_any_rank() -> None:
    flags = ("--num-shard", "3", "--speculate", "2", "--max-batch-total-tokens", "8192")
    with ServerProcess(*flags) as server:
        server.wait_ready()
        async with httpx.AsyncClient(
            base_url=server.url, timeout=200, limits=httpx.Limits()
        ) as client:

            async def streams() -> list[str]:
                return list(
                    await asyncio.gather(*(stream_text(client, body(i)) for i in range(STREAMS)))
                )

            undisturbed = await streams()
            for victim in range(3):
                group = parts(server)
                assert len(group) == 3
                disturbed = asyncio.create_task(streams())
                await asyncio.sleep(0.5)
                group[victim].kill()
                assert await disturbed == undisturbed
                await wait_until_gone(group)
                assert not {p.pid for p in group} & {p.pid for p in parts(server)}
                if victim:
                    assert f"rank {victim} (process {group[victim].pid}) ended with -9" in (
                        server.output
                    )


def test_a_number_of_ranks_that_does_not_fit_is_refused() -> None:
    with ServerProcess("--num-shard", "2") as server:
        assert server.process.wait(30) == 1
        last = server.output.strip().splitlines()[-1]
        assert last.startswith("Error: --num-shard 2") and "1, 3, 9 ranks" in last
