"""A real Ray cluster on this machine: replicas, and the ranks of one, on nodes that die."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.server import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NODE = {"object_store_memory": 100 * 2**20}
EXACT = ("--activations", "float32")
"""Where to round to 8 bits depends on the order of sums, and so on the number of ranks."""
FAST_DEATH = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Its head has no core to offer."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": FAST_DEATH}
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, **head})
    yield cluster
    cluster.shutdown()


async def text_of(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    async with client.stream("POST", "/generate_stream", json=body) as response:
        assert response.status_code == 200
        lines = [line async for line in response.aiter_lines() if line.startswith("data:")]
    *events, last = [json.loads(line[5:]) for line in lines]
    assert all(event["generated_text"] is None for event in events)
    return str(last["generated_text"])


def body(index: int) -> dict[str, Any]:
    sampling = {"do_sample": index % 2 == 1, "seed": index, "max_new_tokens": 32}
    return {"inputs": f"Chapter {index}. Once upon a time", "parameters": sampling}


def texts(
    server: ServerProcess, count: int, disturb: Callable[[], object] | None = None
) -> list[str]:
    """Of `count` streams, in the middle of which something happens."""

    async def run() -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=240) as client:
            streams = [asyncio.create_task(text_of(client, body(i))) for i in range(count)]
            if disturb is not None:
                await asyncio.sleep(1)
                assert not all(stream.done() for stream in streams)
                await asyncio.to_thread(disturb)
            return await asyncio.gather(*streams)

    return asyncio.run(run())


def ranks() -> list[psutil.Process]:
    """The children of Ray's actors for further ranks."""
    actors = [p for p in psutil.process_iter() if "RankNode" in " ".join(p.cmdline())]
    return [child for actor in actors for child in actor.children()]


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """What one rank in one process answers."""
    with ServerProcess(*EXACT) as server:
        server.wait_ready()
        return texts(server, 64)


def test_streams_survive_the_death_of_a_node(cluster: Any, alone: list[str]) -> None:
    node, _ = [cluster.add_node(num_cpus=1, **NODE) for _ in range(2)]
    flags, environment = ("--ray", "--num-replica", "2"), {"RAY_ADDRESS": cluster.address}
    with ServerProcess(*flags, *EXACT, environment=environment) as server:
        server.wait_ready(120)
        assert "Ray cluster of 3 nodes" in server.output
        assert "2 replicas" in server.output
        assert texts(server, 64, lambda: cluster.remove_node(node, allow_graceful=False)) == alone
        assert "goes on with another replica" in server.output
        assert server.stop() == 0


def test_one_model_on_two_nodes(cluster: Any, alone: list[str]) -> None:
    """Two ranks on a node of two cores, where they share memory, and one on a node of one."""
    (small,) = cluster.worker_nodes
    cluster.add_node(num_cpus=2, **NODE)
    shards = ("--ray", "--num-shard", "3", "--cpu-threads", "3")
    with ServerProcess(*shards, *EXACT, environment={"RAY_ADDRESS": cluster.address}) as server:
        server.wait_ready(120)
        first = ranks()
        assert len(first) == 2
        assert texts(server, 8, first[0].kill) == alone[:8]
        second = ranks()
        assert len(second) == 2 and not {p.pid for p in first} & {p.pid for p in second}
        cluster.add_node(num_cpus=1, **NODE)
        disturbed = texts(server, 8, lambda: cluster.remove_node(small, allow_graceful=False))
        assert disturbed == alone[:8]
        assert not {p.pid for p in second} & {p.pid for p in ranks()}
        assert server.metric("tgi_batch_next_size_count") > 32
        assert server.stop() == 0


def test_without_a_cluster_it_says_how_to_start_one() -> None:
    with ServerProcess("--ray", environment={"RAY_ADDRESS": "127.0.0.1:1"}) as server:
        assert server.process.wait(60) == 1
        assert "ray start --head" in server.output
        assert "Traceback" not in server.output
