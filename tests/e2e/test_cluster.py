"""A real Ray cluster of two nodes on this machine: replicas on both, one node killed."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.server import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
FAST_DEATH = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    head = {**NODE, "include_dashboard": False, "_system_config": FAST_DEATH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
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


def test_streams_survive_the_death_of_a_node(cluster: Any) -> None:
    environment = {"RAY_ADDRESS": cluster.address}
    with ServerProcess("--ray", "--num-replica", "2", environment=environment) as server:
        server.wait_ready(120)
        assert "Ray cluster of 2 nodes" in server.output
        assert "2 replicas" in server.output

        async def load(*, kill: bool = False) -> list[str]:
            async with httpx.AsyncClient(base_url=server.url, timeout=240) as client:
                streams = [asyncio.create_task(text_of(client, body(i))) for i in range(64)]
                if kill:
                    await asyncio.sleep(1)
                    node = next(iter(cluster.worker_nodes))
                    await asyncio.to_thread(cluster.remove_node, node, allow_graceful=False)
                return await asyncio.gather(*streams)

        undisturbed = asyncio.run(load())
        assert "goes on with another replica" not in server.output
        assert asyncio.run(load(kill=True)) == undisturbed
        assert "goes on with another replica" in server.output
        assert server.stop() == 0


def test_without_a_cluster_it_says_how_to_start_one() -> None:
    with ServerProcess("--ray", environment={"RAY_ADDRESS": "127.0.0.1:1"}) as server:
        assert server.process.wait(60) == 1
        assert "ray start --head" in server.output
        assert "Traceback" not in server.output
