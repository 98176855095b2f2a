"""What is asked of Ray for a replica, checked by Ray Serve's own rules."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve

from headrace.config import Settings
from headrace.serve.cluster import server
from headrace.serve.cluster.deployment import EngineReplica

CPU_NODES = [{"CPU": 8.0}, {"CPU": 4.0}, {"CPU": 0.0}]
GPU_NODES = [{"CPU": 8.0, "GPU": 8.0}] * 2


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    nodes: list[dict[str, float]] = request.param
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    described = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(server.ray, "nodes", lambda: described)
    monkeypatch.setattr(server.ray, "cluster_resources", lambda: total)


def asked(settings: Settings) -> tuple[dict[str, float], dict[str, Any], Settings]:
    of_rank = server.resources(settings)
    placement = server.placement(settings, of_rank)
    serve.deployment(ray_actor_options=of_rank, **placement)(EngineReplica)  # refuses what is wrong
    return of_rank, placement, server.settings_of_replica(settings, of_rank)


@pytest.mark.parametrize("cluster", [CPU_NODES], indirect=True)
@pytest.mark.parametrize(
    ("threads", "num_shard", "of_rank"), [(None, 1, 4), (None, 2, 2), (None, 8, 1), (12, 3, 4)]
)
def test_cores(cluster: None, threads: int | None, num_shard: int, of_rank: int) -> None:
    resources, placement, replica = asked(Settings(cpu_threads=threads, num_shard=num_shard))
    assert resources == {"num_cpus": of_rank}
    assert placement.get("placement_group_bundles", []) == (
        [{"CPU": of_rank}] * num_shard if num_shard > 1 else []
    )
    assert (replica.cpu_threads, replica.num_shard) == (of_rank * num_shard, num_shard)
    assert not replica.ray


@pytest.mark.parametrize("cluster", [GPU_NODES], indirect=True)
def test_gpus(cluster: None) -> None:
    resources, placement, replica = asked(Settings(num_shard=16, num_replica=2))
    assert resources == {"num_cpus": 0, "num_gpus": 1}
    assert placement["placement_group_bundles"] == [{"GPU": 1}] * 16
    assert placement["placement_group_strategy"] == "PACK"
    assert (replica.cpu_threads, replica.num_replica) == (None, 1)
    assert server.resources(Settings(device="cpu")) == {"num_cpus": 8}


@pytest.mark.parametrize("cluster", [CPU_NODES], indirect=True)
def test_a_cluster_that_is_too_small_is_told(
    cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(num_shard=3, num_replica=2, cpu_threads=6)
    server.warn_of_no_room(settings, server.resources(settings))
    assert not caplog.messages
    server.warn_of_no_room(settings, {"num_cpus": 3})
    assert caplog.messages == ["waiting for nodes: 18 CPUs needed, the cluster has 12"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", ""),
        (
            "Failed.\nTraceback:\n  x\nheadrace.errors.StartupError: no: OSError: y\n",
            "no: OSError: y",
        ),
    ],
)
def test_why_replicas_do_not_start(
    monkeypatch: pytest.MonkeyPatch, message: str, expected: str
) -> None:
    deployment = SimpleNamespace(message=message)
    application = SimpleNamespace(deployments={"engine": deployment})
    status = SimpleNamespace(applications={"headrace": application})
    monkeypatch.setattr(server.serve, "status", lambda: status)
    assert server.reason() == expected
    status.applications.clear()
    assert server.reason() == ""
