"""`types.EngineClient` over a Ray Serve deployment: streams outlive the replicas they began on.

Knows what each live request has emitted; which replica gets it is `routing`'s business.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import msgspec
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from headrace.engine.client import MAX_DEATHS
from headrace.engine.totals import total_info, total_stats
from headrace.errors import EngineDeadError, StartupError
from headrace.serve.cluster.deployment import ReplicaReport
from headrace.types import Add, EngineInfo, EngineStats, StepCounts, TokenEvent

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 2.0
POLL_SECONDS_PER_REPLICA: Final = 0.02
"""So that questions stay under 50 a second, however many replicas there are."""
MAX_SILENCE_SECONDS: Final = 60.0
"""Of all replicas together, before this counts as unhealthy."""


class RayEngineClient:
    """Use `start` first. `handle` is the deployment of `EngineReplica`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._streams: Any = handle.options(method_name="generate", stream=True)
        self._handle = handle
        self._info: EngineInfo | None = None
        self._stats = EngineStats()
        self._last_answer = 0.0
        self._num_replicas = 0
        self._poll: asyncio.Task[None] | None = None
        self.steps = StepCounts()
        self._counted: dict[str, StepCounts] = {}
        """By replica, what of `steps` are its own; the last heard of at the end."""

    async def start(self) -> None:
        """Wait for the first answer of the replicas. Raises StartupError."""
        try:
            infos = await self._ask("info")
        except (EngineDeadError, RayError, RayServeException, TimeoutError) as error:
            raise StartupError(f"the replicas do not answer: {error}") from None
        self._info = total_info(infos)
        self._poll = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll

    async def _ask(self, method: str) -> list[Any]:
        """What every replica answers."""
        answers = await self._handle.broadcast(method).results_async(
            timeout_s=MAX_SILENCE_SECONDS, return_exceptions=True
        )
        if alive := [one for one in answers if not isinstance(one, BaseException)]:
            self._last_answer = asyncio.get_running_loop().time()
            self._num_replicas = len(alive)
            return alive
        raise EngineDeadError("no replica answers")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS + POLL_SECONDS_PER_REPLICA * self._num_replicas)
            with contextlib.suppress(EngineDeadError, RayError, RayServeException, TimeoutError):
                reports = await self._ask("report")
                self._stats = total_stats([report.stats for report in reports])
                self._count_steps(reports)

    def _count_steps(self, reports: list[ReplicaReport]) -> None:
        """Replicas count from their start; one that is gone leaves its counts behind."""
        for report in reports:
            new = report.steps.copy()
            new.subtract(self._counted.pop(report.name, {}))
            self.steps.update(new)
            self._counted[report.name] = report.steps
        # One may miss an answer and come again.
        for name in list(self._counted)[: -2 * len(reports)]:
            del self._counted[name]

    # --- types.EngineClient

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None, "start() first"
        return self._info

    @property
    def stats(self) -> EngineStats:
        return self._stats

    @property
    def is_healthy(self) -> bool:
        return asyncio.get_running_loop().time() - self._last_answer < MAX_SILENCE_SECONDS

    async def generate(self, add: Add) -> AsyncIterator[TokenEvent]:
        """See `types.EngineClient`."""
        output_ids = list(add.output_ids)
        num_deaths = 0
        while num_deaths < MAX_DEATHS:
            attempt = self._attempt(msgspec.structs.replace(add, output_ids=output_ids.copy()))
            async with contextlib.aclosing(attempt) as events:
                async for event in events:
                    if event.token_ids:
                        output_ids += event.token_ids
                        num_deaths = 0
                    yield event
                    if event.finish_reason is not None or event.error is not None:
                        return
            num_deaths += 1
        raise EngineDeadError(f"{MAX_DEATHS} replicas died during this request")

    async def _attempt(self, add: Add) -> AsyncGenerator[TokenEvent]:
        """The events of one replica; ends early when it dies."""
        response = self._streams.remote(msgspec.msgpack.encode(add))
        try:
            async for message in response:
                event = msgspec.msgpack.decode(message, type=TokenEvent)
                event.request_id = add.request_id
                yield event
        except (RayError, RayServeException) as error:
            log.warning("request %d goes on with another replica: %s", add.request_id, error)
        finally:
            response.cancel()
