"""The front end's handle on an engine process: starts it, feeds it, and outlives it.

Knows the journal (every live request with all tokens emitted so far) and the rules of restarting;
knows no text, and not how a process is made.

When the engine dies, another is launched and gets every live request again, with the tokens that
already came. It goes on from there: events of the old engine that arrived are in the journal,
those that did not are made again, and an old connection is closed before a new one is opened.

Two rules bound this. A request that was among those that could run at `MAX_DEATHS` deaths, without
a new token between them, fails with EngineDeadError: it may be the cause. Those that make progress
or are still queued go on. After
`MAX_DEATHS` failed launches in a row all live requests fail and new ones are refused at once, while
launching goes on with growing pauses until it succeeds.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from headrace.engine.channel import ChannelProtocol, connect
from headrace.errors import EngineDeadError, StartupError
from headrace.types import (
    Abort,
    Add,
    EngineFailure,
    EngineInfo,
    EngineStats,
    LoadProgress,
    Report,
    StepEvents,
    TokenEvent,
)

logger = logging.getLogger(__name__)

MAX_DEATHS: Final = 3
MAX_PAUSE_SECONDS: Final = 30.0
GRACE_SECONDS: Final = 2.0
"""What a process gets to notice that its channel is closed, before it is killed."""


class EngineProcess(Protocol):
    """A process that was just started, seen from its parent."""

    @property
    def pid(self) -> int: ...

    @property
    def socket(self) -> socket.socket:
        """This side's end of the channel; the client takes it over."""
        ...

    def kill(self) -> None:
        """Send SIGKILL; nothing happens when the process has ended."""
        ...

    async def wait(self) -> int:
        """Wait for the end; return the exit code (negative: the signal). May be cancelled."""
        ...


class _Stream:
    """Journal entry of one live request, and the way to its generator."""

    def __init__(self, add: Add) -> None:
        self.add = add
        self.output_ids = list(add.output_ids)
        self.num_deaths = 0
        """Deaths of the engine since the last new token, while this may have been running."""
        self.events: asyncio.Queue[TokenEvent | EngineDeadError] = asyncio.Queue()

    def resumed(self) -> Add:
        return msgspec.structs.replace(self.add, output_ids=self.output_ids)


class _Connection:
    """One life of the engine process, from launch to death."""

    def __init__(self, process: EngineProcess) -> None:
        self.process = process
        self.info: EngineInfo | None = None
        self.failure = ""
        self.has_stepped = False
        self.loaded = asyncio.Event()
        """Set by EngineInfo or EngineFailure."""
        self.channel: ChannelProtocol[Report]

    async def ready(self) -> EngineInfo:
        """Wait until the engine can be used. Raises StartupError."""
        waits = [asyncio.create_task(e.wait()) for e in (self.loaded, self.channel.closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if self.info is not None:
            return self.info
        code = await self.end()
        raise StartupError(self.failure or f"the engine process ended with {code} while loading")

    async def end(self) -> int:
        """Make sure that nothing of this life goes on; return the exit code."""
        self.channel.close()
        await self.channel.closed.wait()
        try:
            return await asyncio.wait_for(self.process.wait(), GRACE_SECONDS)
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()


class ProcessEngineClient:
    """`types.EngineClient` over a process made by `launch`.

    `on_progress` hears of loading, also when the engine is restarted. The engine is unhealthy when
    it has work and no step ended for `stall_seconds`.
    """

    def __init__(
        self,
        launch: Callable[[], Awaitable[EngineProcess]],
        *,
        on_progress: Callable[[LoadProgress], None] = lambda progress: None,
        stall_seconds: float = 60.0,
        pause_seconds: float = 0.5,
    ) -> None:
        self._launch = launch
        self._on_progress = on_progress
        self._stall_seconds = stall_seconds
        self._pause_seconds = pause_seconds
        self._journal: dict[int, _Stream] = {}
        self._connection: _Connection | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._info: EngineInfo | None = None
        self._stats = EngineStats()
        self.on_step: Callable[[EngineStats], None] = lambda stats: None
        """Hears of every step; for metrics."""
        self._last_progress = 0.0
        self._failed_launches = 0
        self._is_closed = False

    # --- life

    async def start(self) -> None:
        """Launch the engine and wait until it is ready. Raises StartupError."""
        connection = await self._connect()
        self._supervisor = asyncio.create_task(self._supervise(connection))

    async def close(self) -> None:
        """End the engine process; live requests fail with EngineDeadError."""
        self._is_closed = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
        self._fail_streams(list(self._journal.values()), "the server is shutting down")

    async def _connect(self) -> _Connection:
        """Launch an engine, wait until it is ready, and hand it all live requests."""
        connection = _Connection(await self._launch())
        connection.channel = await connect(
            connection.process.socket, Report, lambda report: self._receive(connection, report)
        )
        try:
            self._info = await connection.ready()
        except asyncio.CancelledError:
            await connection.end()
            raise
        self._connection = connection
        self._failed_launches = 0
        self._last_progress = asyncio.get_running_loop().time()
        for stream in self._journal.values():
            connection.channel.send(stream.resumed())
        return connection

    async def _supervise(self, connection: _Connection) -> None:
        while True:
            try:
                await connection.channel.closed.wait()
            finally:
                self._connection = None
                code = await connection.end()
            logger.error("engine process %d ended with %d", connection.process.pid, code)
            self._count_death()
            if not connection.has_stepped:  # do not spin when it dies at once, again and again
                await asyncio.sleep(self._pause_seconds)
            connection = await self._reconnect()

    async def _reconnect(self) -> _Connection:
        """Launch until it works, with growing pauses."""
        while True:
            try:
                connection = await self._connect()
            except (StartupError, OSError) as error:
                self._failed_launches += 1
                logger.error("cannot restart the engine: %s", error)
                if self._failed_launches >= MAX_DEATHS:
                    reason = f"the engine cannot be restarted: {error}"
                    self._fail_streams(list(self._journal.values()), reason)
                pause = self._pause_seconds * 2 ** min(self._failed_launches, 10)
                await asyncio.sleep(min(pause, MAX_PAUSE_SECONDS))
            else:
                logger.warning(
                    "engine process %d goes on with %d requests",
                    connection.process.pid,
                    len(self._journal),
                )
                return connection

    def _count_death(self) -> None:
        # In the engine's order; no more than these can have been running.
        streams = sorted(self._journal.values(), key=lambda stream: stream.add.priority)
        suspects = streams[: self.info.max_num_seqs]
        for stream in suspects:
            stream.num_deaths += 1
        doomed = [stream for stream in suspects if stream.num_deaths >= MAX_DEATHS]
        self._fail_streams(doomed, f"the engine died {MAX_DEATHS} times during this request")

    def _fail_streams(self, streams: list[_Stream], reason: str) -> None:
        for stream in streams:
            del self._journal[stream.add.request_id]
            stream.events.put_nowait(EngineDeadError(reason))

    # --- what the engine says

    def _receive(self, connection: _Connection, report: Report) -> None:
        if isinstance(report, StepEvents):
            connection.has_stepped = True
            self._last_progress = asyncio.get_running_loop().time()
            self._stats = report.stats
            self.on_step(report.stats)
            for event in report.events:
                self._deliver(event)
        elif isinstance(report, LoadProgress):
            self._on_progress(report)
        elif isinstance(report, EngineInfo):
            connection.info = report
            connection.loaded.set()
        elif isinstance(report, EngineFailure):
            connection.failure = report.message
            connection.loaded.set()

    def _deliver(self, event: TokenEvent) -> None:
        stream = self._journal.get(event.request_id)
        if stream is None:  # aborted while the event was on its way
            return
        if event.token_ids:
            stream.output_ids += event.token_ids
            stream.num_deaths = 0
        if _is_last(event):
            del self._journal[event.request_id]
        stream.events.put_nowait(event)

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
        if self._connection is None:
            return False
        silence = asyncio.get_running_loop().time() - self._last_progress
        return not self._journal or silence < self._stall_seconds

    async def generate(self, add: Add) -> AsyncIterator[TokenEvent]:
        """See `types.EngineClient`. A request id must never be used twice."""
        if self._is_closed or self._failed_launches >= MAX_DEATHS:
            raise EngineDeadError("the engine process is down")
        assert add.request_id not in self._journal, f"request id {add.request_id} is in use"
        if not self._journal:
            self._last_progress = asyncio.get_running_loop().time()
        stream = self._journal[add.request_id] = _Stream(add)
        self._send(add)
        try:
            while True:
                event = await stream.events.get()
                if isinstance(event, EngineDeadError):
                    raise event
                yield event
                if _is_last(event):
                    return
        finally:
            if self._journal.pop(add.request_id, None) is not None:
                self._send(Abort([add.request_id]))

    def _send(self, command: Add | Abort) -> None:
        """While there is no engine, the journal is all that counts."""
        if self._connection is not None:
            self._connection.channel.send(command)


def _is_last(event: TokenEvent) -> bool:
    return event.finish_reason is not None or event.error is not None
