"""One replica as Ray Serve sees it: an actor that keeps an engine, which starts on its node.

A death of the engine alone is mended here, as on one machine; that of the actor or its node is the
front end's concern. Messages are msgpack, as on the engine's own channel.
"""

import itertools
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from headrace.config import Settings
from headrace.engine.client import ProcessEngineClient
from headrace.observability import logging as log_setup
from headrace.serve.cluster.ranks import SpreadEngine
from headrace.serve.launch import launches
from headrace.serve.locate import locate
from headrace.types import Add, EngineInfo, EngineStats, StepCounts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplicaReport:
    """What front ends ask for now and then."""

    name: str
    """Of this life of the replica."""
    stats: EngineStats
    steps: StepCounts
    """Since the replica's start."""


class EngineReplica:
    """The class of the Serve deployment; every method is called from afar.

    The engine process ends with the actor's, as its channel closes then.
    """

    async def __init__(  # type: ignore[misc]
        self, settings: Settings, rank_resources: dict[str, float]
    ) -> None:
        """`rank_resources`: of each rank, as `ray.remote` calls them."""
        log_setup.setup(settings.log_level, settings.json_output)
        self._ids = itertools.count(1)
        self._name = str(uuid.uuid4())
        self._engine = ProcessEngineClient(
            [SpreadEngine(settings, rank_resources).launch]
            if (settings.num_shard or 1) > 1
            else launches(settings, locate(settings)),
            on_progress=lambda report: log.info(
                "%s: %d of %d", report.stage, report.done, report.total
            ),
        )
        await self._engine.start()

    async def generate(self, request: bytes) -> AsyncIterator[bytes]:
        """The events of one encoded `Add`, one message each."""
        # Ids are those of the front ends, of which there may be several, and of their retries.
        add = msgspec.msgpack.decode(request, type=Add)
        add = msgspec.structs.replace(add, request_id=next(self._ids))
        async for event in self._engine.generate(add):
            yield msgspec.msgpack.encode(event)

    async def info(self) -> EngineInfo:
        return self._engine.info

    async def report(self) -> ReplicaReport:
        return ReplicaReport(self._name, self._engine.stats, self._engine.steps)

    async def check_health(self) -> None:
        """Ray Serve replaces a replica that raises here again and again."""
        if not self._engine.is_healthy:
            raise RuntimeError("the engine is down or does not go on")
