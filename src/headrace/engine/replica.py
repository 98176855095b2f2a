"""One engine, whose processes come and go: launched, watched, and launched again when it dies.

Knows the life of a process; which requests it works on is its owner's business (`client`).
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from headrace.engine.channel import ChannelProtocol, connect
from headrace.errors import StartupError
from headrace.types import (
    Command,
    EngineFailure,
    EngineInfo,
    EngineStats,
    LoadProgress,
    Report,
    StepEvents,
)

logger = logging.getLogger(__name__)

MAX_FAILED_LAUNCHES: Final = 3
MAX_PAUSE_SECONDS: Final = 30.0
GRACE_SECONDS: Final = 2.0
"""What a process gets to notice that its channel is closed, before it is killed."""


class EngineProcess(Protocol):
    """A process that was just started, seen from its parent."""

    @property
    def pid(self) -> int: ...

    @property
    def socket(self) -> socket.socket:
        """This side's end of the channel; the replica takes it over."""
        ...

    def kill(self) -> None:
        """Send SIGKILL; nothing happens when the process has ended."""
        ...

    async def wait(self) -> int:
        """Wait for the end; return the exit code (negative: the signal). May be cancelled."""
        ...


Launch = Callable[[EngineInfo | None], Awaitable[EngineProcess]]
"""Starts a process; told what the replica's process before it said, if there was one, so that the
new one can be of the same size."""


class ReplicaOwner(Protocol):
    """Hears of everything that a replica's process says and does."""

    def on_progress(self, replica: "Replica", progress: LoadProgress) -> None: ...

    def on_ready(self, replica: "Replica") -> None:
        """A process answers from now on; it knows of no request."""
        ...

    def on_events(self, replica: "Replica", report: StepEvents) -> None: ...

    def on_death(self, replica: "Replica") -> None: ...

    def on_failed_launch(self, replica: "Replica", reason: str) -> None: ...


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


class Replica:
    """An engine under the number `index`; `start` it, `send` it commands while it `is_up`."""

    def __init__(
        self, index: int, launch: Launch, owner: ReplicaOwner, *, pause_seconds: float
    ) -> None:
        self.index = index
        self.info: EngineInfo | None = None
        """Of the present process or the one before it; None until the first is ready."""
        self.stats = EngineStats()
        self._last_progress = 0.0
        """In the loop's time."""
        self.failed_launches = 0
        """In a row."""
        self._launch = launch
        self._owner = owner
        self._pause_seconds = pause_seconds
        self._connection: _Connection | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._connection is not None

    @property
    def is_hopeless(self) -> bool:
        """It has failed to start several times; attempts go on with growing pauses."""
        return self.failed_launches >= MAX_FAILED_LAUNCHES

    async def start(self) -> None:
        """Launch the engine and wait until it is ready. Raises StartupError."""
        connection = await self._connect()
        self._supervisor = asyncio.create_task(self._supervise(connection))

    async def close(self) -> None:
        """End the engine process."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor

    def send(self, command: Command) -> None:
        """Nothing happens while it is down."""
        if self._connection is not None:
            self._connection.channel.send(command)

    def note_progress(self) -> None:
        """A step ended, or work began."""
        self._last_progress = asyncio.get_running_loop().time()

    @property
    def silence(self) -> float:
        """Seconds without progress."""
        return asyncio.get_running_loop().time() - self._last_progress

    async def _connect(self) -> _Connection:
        connection = _Connection(await self._launch(self.info))
        connection.channel = await connect(
            connection.process.socket, Report, lambda report: self._receive(connection, report)
        )
        try:
            self.info = await connection.ready()
        except asyncio.CancelledError:
            await connection.end()
            raise
        self._connection = connection
        self.failed_launches = 0
        self.note_progress()
        self._owner.on_ready(self)
        return connection

    async def _supervise(self, connection: _Connection) -> None:
        while True:
            try:
                await connection.channel.closed.wait()
            finally:
                self._connection = None
                code = await connection.end()
            logger.error("engine process %d ended with %d", connection.process.pid, code)
            self.stats = EngineStats()
            self._owner.on_death(self)
            if not connection.has_stepped:  # do not spin when it dies at once, again and again
                await asyncio.sleep(self._pause_seconds)
            connection = await self._reconnect()
            logger.warning("engine process %d goes on", connection.process.pid)

    async def _reconnect(self) -> _Connection:
        """Launch until it works, with growing pauses."""
        while True:
            try:
                return await self._connect()
            except (StartupError, OSError) as error:
                self.failed_launches += 1
                logger.error("cannot restart the engine: %s", error)
                self._owner.on_failed_launch(self, str(error))
                pause = self._pause_seconds * 2 ** min(self.failed_launches, 10)
                await asyncio.sleep(min(pause, MAX_PAUSE_SECONDS))

    def _receive(self, connection: _Connection, report: Report) -> None:
        if isinstance(report, StepEvents):
            connection.has_stepped = True
            self.note_progress()
            self.stats = report.stats
            self._owner.on_events(self, report)
        elif isinstance(report, LoadProgress):
            self._owner.on_progress(self, report)
        elif isinstance(report, EngineInfo):
            connection.info = report
            connection.loaded.set()
        elif isinstance(report, EngineFailure):
            connection.failure = report.message
            connection.loaded.set()
