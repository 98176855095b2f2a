"""The front end's handle on its engines: feeds them, and outlives every one of them.

Knows the journal (every live request with all tokens emitted so far) and which replica works on
what; knows no text, and not how a process is made or brought back (`replica`).

When an engine dies, the requests that it had go to another replica at once, or wait for the first
that is up again, with the tokens that already came. There they go on: events of the old engine
that arrived are in the journal, those that did not are made again, and an old connection is closed
before a new one is opened.

Two rules bound this. A request that was among those that could run at `MAX_DEATHS` deaths, without
a new token between them, fails with EngineDeadError: it may be the cause. Those that make progress
or are still queued go on. When no replica is left that could be started lately, all live requests
fail and new ones are refused at once, while launching goes on until it succeeds.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec

from headrace.engine.replica import Launch, Replica
from headrace.engine.router import PREFIX_STEP, Route, Router
from headrace.engine.totals import total_info, total_stats
from headrace.errors import EngineDeadError
from headrace.observability.steps import count_step
from headrace.types import (
    Abort,
    Add,
    EngineInfo,
    EngineStats,
    LoadProgress,
    StepCounts,
    StepEvents,
    TokenEvent,
)

MAX_DEATHS: Final = 3


class _Stream:
    """Journal entry of one live request, and the way to its generator."""

    def __init__(self, add: Add) -> None:
        self.add = add
        self.output_ids = list(add.output_ids)
        self.num_deaths = 0
        """Deaths of its engine since the last new token, while this may have been running."""
        self.route: Route | None = None
        """None while no replica is up."""
        self.events: asyncio.Queue[TokenEvent | EngineDeadError] = asyncio.Queue()

    def resumed(self) -> Add:
        return msgspec.structs.replace(self.add, output_ids=self.output_ids)


class ProcessEngineClient:
    """`types.EngineClient` over one replica per entry of `launches`.

    `on_progress` hears of loading, also when an engine is restarted. A replica is unhealthy when
    it has work and no step ended for `stall_seconds`.
    """

    def __init__(
        self,
        launches: Sequence[Launch],
        *,
        on_progress: Callable[[LoadProgress], None] = lambda progress: None,
        stall_seconds: float = 60.0,
        pause_seconds: float = 0.5,
    ) -> None:
        self._replicas = [
            Replica(index, launch, self, pause_seconds=pause_seconds)
            for index, launch in enumerate(launches)
        ]
        self._report_progress = on_progress
        self._stall_seconds = stall_seconds
        self._journal: dict[int, _Stream] = {}
        self._router = Router(capacity=0)
        self._info: EngineInfo | None = None
        self._is_closed = False
        self.steps = StepCounts()
        self._num_deaths = 0

    # --- life

    async def start(self) -> None:
        """Launch the engines and wait until all are ready. Raises StartupError."""
        starts = [asyncio.create_task(replica.start()) for replica in self._replicas]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for task in starts:
                task.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self.close()
            raise
        self._info = info = total_info([replica.info for replica in self._replicas if replica.info])
        if len(self._replicas) > 1:
            self._router.capacity = info.num_blocks * info.block_size // PREFIX_STEP

    async def close(self) -> None:
        """End the engine processes; live requests fail with EngineDeadError."""
        self._is_closed = True
        await asyncio.gather(*(replica.close() for replica in self._replicas))
        self._fail(list(self._journal.values()), "the server is shutting down")

    # --- what the replicas say (`replica.ReplicaOwner`)

    def on_progress(self, replica: Replica, progress: LoadProgress) -> None:
        if replica is self._replicas[0]:  # all load at the same time; one is enough to watch
            self._report_progress(progress)

    def on_ready(self, replica: Replica) -> None:
        for stream in self._journal.values():
            if stream.route is None:
                self._assign(stream)

    def on_events(self, replica: Replica, report: StepEvents) -> None:
        count_step(self.steps, report.stats)
        for event in report.events:
            self._deliver(event)

    def on_death(self, replica: Replica) -> None:
        self._num_deaths += 1
        self._router.forget(replica.index)
        orphans = [
            s for s in self._journal.values() if s.route and s.route.replica == replica.index
        ]
        for stream in orphans:
            self._unassign(stream)
        # In the engine's order; no more than these can have been running.
        suspects = sorted(orphans, key=lambda stream: stream.add.priority)
        assert replica.info is not None
        for stream in suspects[: replica.info.max_num_seqs]:
            stream.num_deaths += 1
        for stream in orphans:
            if stream.num_deaths < MAX_DEATHS:
                self._assign(stream)
            else:
                self._fail([stream], f"the engine died {MAX_DEATHS} times during this request")

    def on_failed_launch(self, replica: Replica, reason: str) -> None:
        if all(other.is_hopeless for other in self._replicas):
            streams = list(self._journal.values())
            self._fail(streams, f"the engine cannot be restarted: {reason}")

    def _deliver(self, event: TokenEvent) -> None:
        stream = self._journal.get(event.request_id)
        if stream is None:  # aborted while the event was on its way
            return
        if event.token_ids:
            stream.output_ids += event.token_ids
            stream.num_deaths = 0
            if stream.route is not None:
                self._router.begin_decode(stream.route)
        if _is_last(event):
            self._forget(stream)
        stream.events.put_nowait(event)

    # --- who works on what

    def _assign(self, stream: _Stream) -> None:
        up = [replica.index for replica in self._replicas if replica.is_up]
        if up:
            request = stream.resumed()
            stream.route = self._router.choose(request, up)
            replica = self._replicas[stream.route.replica]
            replica.send(request)
            if self._router.num_streams(replica.index) == 1:
                replica.note_progress()

    def _streams_of(self, replica: Replica) -> list[_Stream]:
        index = replica.index
        return [s for s in self._journal.values() if s.route and s.route.replica == index]

    def _unassign(self, stream: _Stream) -> None:
        if stream.route is not None:
            self._router.end(stream.route)
            stream.route = None

    def _forget(self, stream: _Stream) -> None:
        del self._journal[stream.add.request_id]
        self._unassign(stream)

    def _fail(self, streams: Sequence[_Stream], reason: str) -> None:
        for stream in streams:
            self._forget(stream)
            stream.events.put_nowait(EngineDeadError(reason))

    # --- types.EngineClient

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None, "start() first"
        return self._info

    @property
    def stats(self) -> EngineStats:
        """Of all replicas together."""
        stats = total_stats([replica.stats for replica in self._replicas])
        return msgspec.structs.replace(stats, num_engine_deaths=self._num_deaths)

    @property
    def is_healthy(self) -> bool:
        up = [replica for replica in self._replicas if replica.is_up]
        at_work = [replica for replica in up if self._router.num_streams(replica.index)]
        return bool(up) and all(replica.silence < self._stall_seconds for replica in at_work)

    async def generate(self, add: Add) -> AsyncIterator[TokenEvent]:
        """See `types.EngineClient`. A request id must never be used twice."""
        if self._is_closed or all(replica.is_hopeless for replica in self._replicas):
            raise EngineDeadError("the engine process is down")
        assert add.request_id not in self._journal, f"request id {add.request_id} is in use"
        stream = self._journal[add.request_id] = _Stream(add)
        self._assign(stream)
        try:
            while True:
                event = await stream.events.get()
                if isinstance(event, EngineDeadError):
                    raise event
                yield event
                if _is_last(event):
                    return
        finally:
            if add.request_id in self._journal:
                if stream.route is not None:
                    self._replicas[stream.route.replica].send(Abort([add.request_id]))
                self._forget(stream)


def _is_last(event: TokenEvent) -> bool:
    return event.finish_reason is not None or event.error is not None
