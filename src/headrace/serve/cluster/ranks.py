"""The ranks of one replica on the nodes where its placement group has room, one bundle each.

The replica itself has the first bundle and runs rank 0. Ray moves the others when their node dies;
the engine's own watch (`serve.ranks`) notices that a rank is gone, and starts all of them again.
"""

import asyncio
import logging
import socket
import subprocess
import sys
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from headrace.config import Settings, child_environment
from headrace.engine.process import ChildProcess
from headrace.errors import StartupError
from headrace.observability import logging as log_setup
from headrace.serve.launch import EngineOrder, Place, files_of, launch
from headrace.serve.locate import locate
from headrace.serve.machine import interface_of
from headrace.types import EngineInfo

log = logging.getLogger(__name__)

RANK_MODULE = "headrace.serve.rank_process"


def place_of(settings: Settings, port: int = 0) -> Place:
    """This node, with the model on it. Raises StartupError."""
    node = ray.get_runtime_context().get_node_id()
    return Place(node, ray.util.get_node_ip_address(), files_of(locate(settings)), port)


class RankNode:
    """The actor of one further rank: starts its process as often as its engine starts."""

    def __init__(self, settings: Settings) -> None:
        log_setup.setup(settings.log_level, settings.json_output)
        self._place = place_of(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Place:
        """Where a new process waits for rank 0; an earlier one ends."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        address = self._place.address
        with socket.create_server((address, 0)) as listener:
            self._process = subprocess.Popen(
                [sys.executable, "-m", RANK_MODULE, str(listener.fileno())],
                pass_fds=(listener.fileno(),),
                env=child_environment(interface=interface_of(address)),
            )
            return Place(self._place.host, address, self._place.files, listener.getsockname()[1])


class SpreadEngine:
    """An engine whose ranks are in the bundles of this actor's placement group."""

    def __init__(self, settings: Settings, resources: dict[str, float]) -> None:
        self._settings = settings
        self._place = place_of(settings)
        group = ray.util.get_current_placement_group()
        assert group is not None
        remote: Any = ray.remote
        actor = remote(max_restarts=-1, max_task_retries=-1, **resources)(RankNode)
        strategies = (
            PlacementGroupSchedulingStrategy(group, bundle)
            for bundle in range(1, settings.num_shard or 1)
        )
        self._nodes = [actor.options(scheduling_strategy=s).remote(settings) for s in strategies]

    async def launch(self, previous: EngineInfo | None) -> ChildProcess:
        """See `engine.replica.Launch`; waits as long as there is no room for a rank.

        Raises StartupError when a rank's node cannot have the model.
        """
        try:
            others = await asyncio.gather(*(node.start.remote() for node in self._nodes))
        except RayError as error:
            raise StartupError(f"a rank cannot be placed: {error}") from None
        here = self._place.host
        others.sort(key=lambda place: (place.host != here, place.host))
        hosts = len({here, *(place.host for place in others)})
        log.info("%d ranks on %d nodes", 1 + len(others), hosts)
        order = EngineOrder(self._settings, self._place.files, places=[self._place, *others])
        environment = child_environment(interface=interface_of(self._place.address))
        return await launch(order, environment, previous)
