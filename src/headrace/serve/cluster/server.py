"""Deploy replicas on a Ray cluster, and serve them from this process.

Several front ends may share one cluster: the last that deploys decides what runs, and Ray Serve
replaces the replicas one by one, letting each finish what it has. The last that ends undeploys.
"""

import logging
import re
import socket
import uuid
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle

from headrace.config import Settings, ray_address
from headrace.errors import StartupError
from headrace.serve.cluster.client import RayEngineClient
from headrace.serve.cluster.deployment import EngineReplica

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5
FRONT_END = "headrace-front-end-"
APPLICATION = "headrace"
DEPLOYMENT = "engine"
ROUTER = "headrace.serve.cluster.routing.PrefixRouter"


@ray.remote(num_cpus=0)
class Presence:
    """Exists under a name for as long as its front end does; nobody calls it."""


class Cluster:
    """A context: connected to Ray and deployed inside; undeployed after the last front end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._presence: Any = None

    def __enter__(self) -> RayEngineClient:
        """Raises StartupError when there is no cluster, or not room for a replica in it."""
        connect()
        log.info("Ray cluster of %d nodes", sum(node["Alive"] for node in ray.nodes()))
        try:
            handle = deploy(self._settings)
        except RuntimeError as error:
            raise StartupError(f"Ray Serve cannot start a replica: {reason() or error}") from None
        presence: Any = Presence
        self._presence = presence.options(name=f"{FRONT_END}{uuid.uuid4()}").remote()
        return RayEngineClient(handle)

    def __exit__(self, *_: object) -> None:
        named = ray.util.list_named_actors(all_namespaces=True)
        if sum(actor["name"].startswith(FRONT_END) for actor in named) == 1:
            serve.delete(APPLICATION)
        ray.shutdown()


def connect() -> None:
    """To the cluster of RAY_ADDRESS or of this machine. Raises StartupError without one."""
    try:
        address = ray_address()
        if address is not None:  # Ray itself would try for minutes
            socket.create_connection(address, CONNECT_SECONDS).close()
        ray.init(address="auto", log_to_driver=False)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise StartupError(
            f"--ray: no Ray cluster is running here ({error}); start one with `ray start --head` "
            "(and `ray start --address=HEAD:6379` on the other nodes), or set RAY_ADDRESS"
        ) from None


def reason() -> str:
    """Why the replicas do not start: the last line of the last one's traceback, if there is one."""
    application = serve.status().applications.get(APPLICATION)
    deployment = application.deployments.get(DEPLOYMENT) if application else None
    lines = deployment.message.strip().splitlines() if deployment else []
    return re.sub(r"^[\w.]+Error: ", "", lines[-1]) if lines else ""


def deploy(settings: Settings) -> DeploymentHandle:
    """Start the replicas, or replace those of an earlier version one by one."""
    serve.start(http_options={"location": "NoServer"})  # the endpoint is ours
    of_rank = resources(settings)
    warn_of_no_room(settings, of_rank)
    deployment = serve.deployment(
        name=DEPLOYMENT,
        ray_actor_options=of_rank,
        **placement(settings, of_rank),
        num_replicas=None if settings.max_replica else settings.num_replica,
        autoscaling_config=autoscaling(settings),
        max_ongoing_requests=settings.max_concurrent_requests,
        request_router_config={"request_router_class": ROUTER},
        graceful_shutdown_timeout_s=settings.graceful_termination_timeout,
        health_check_period_s=5,
    )(EngineReplica)
    return serve.run(
        deployment.bind(settings_of_replica(settings, of_rank), of_rank),
        name=APPLICATION,
        route_prefix=None,
        blocking=False,
    )


def warn_of_no_room(settings: Settings, of_rank: dict[str, float]) -> None:
    """Nodes may still come, so the deployment waits for them."""
    num_ranks = settings.num_replica * (settings.num_shard or 1)
    for option, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        needed = num_ranks * of_rank.get(option, 0)
        has = ray.cluster_resources().get(resource, 0)
        if needed > has:
            log.warning(
                "waiting for nodes: %g %ss needed, the cluster has %g", needed, resource, has
            )


def settings_of_replica(settings: Settings, of_rank: dict[str, float]) -> Settings:
    """What the replica's own launcher gets to see."""
    threads = int(of_rank["num_cpus"]) * (settings.num_shard or 1) or None
    return replace(settings, num_replica=1, max_replica=None, ray=False, cpu_threads=threads)


def resources(settings: Settings) -> dict[str, float]:
    """What one rank takes of a node: a GPU, or its share of the compute threads' cores."""
    if has_cuda(settings):
        return {"num_cpus": 0, "num_gpus": 1}
    cores = settings.cpu_threads or smallest_node("CPU")
    return {"num_cpus": max(1, cores // (settings.num_shard or 1))}


def placement(settings: Settings, of_rank: dict[str, float]) -> dict[str, Any]:
    """Of the ranks of a replica: on one node if it has room, else on as few as possible."""
    num_ranks = settings.num_shard or 1
    if num_ranks == 1:
        return {}
    bundle = {"CPU": of_rank["num_cpus"], "GPU": of_rank.get("num_gpus", 0)}
    bundles = [{name: amount for name, amount in bundle.items() if amount}] * num_ranks
    return {"placement_group_bundles": bundles, "placement_group_strategy": "PACK"}


def has_cuda(settings: Settings) -> bool:
    return settings.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0


def smallest_node(resource: str) -> int:
    """So that each node has room for a replica by default. Raises StartupError without any."""
    found = [int(node["Resources"].get(resource, 0)) for node in ray.nodes() if node["Alive"]]
    if not any(found):
        raise StartupError(f"--ray: no node of the cluster offers {resource} resources")
    return min(amount for amount in found if amount)


def autoscaling(settings: Settings) -> AutoscalingConfig | None:
    """By requests that run or wait per replica, between --num-replica and --max-replica."""
    if not settings.max_replica:
        return None
    return AutoscalingConfig(
        min_replicas=settings.num_replica,
        max_replicas=settings.max_replica,
        target_ongoing_requests=settings.replica_requests,
    )
