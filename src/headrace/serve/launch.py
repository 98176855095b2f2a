"""Start the engine process and hold it. Knows processes and sockets, nothing of models."""

import asyncio
import contextlib
import socket
import subprocess
import sys

import msgspec

from headrace.config import Settings, child_environment

ENGINE_MODULE = "headrace.serve.engine_process"


class EngineOrder(msgspec.Struct, frozen=True):
    """All that an engine process needs to know; the first line on its standard input."""

    settings: Settings
    checkpoint: str
    """Path of the located checkpoint."""
    channel: int
    """File descriptor of its end of the channel."""


class EngineProcess:
    """A running engine process and our end of its channel."""

    def __init__(self, settings: Settings, checkpoint: str) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            order = EngineOrder(settings, checkpoint, theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", ENGINE_MODULE],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=child_environment(),
            )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order))
        self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it at once; harmless when it is gone already."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """Its exit code, once it is gone."""
        return await asyncio.to_thread(self._process.wait)
