"""Starts an engine as a child process with one end of a socket pair; `main` is the child's side.

Knows nothing of what the child does; `replica` watches over it.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress


class ChildProcess:
    """`client.EngineProcess` over a child of this process."""

    def __init__(self, process: asyncio.subprocess.Process, connection: socket.socket) -> None:
        self._process = process
        self.socket = connection

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        return await self._process.wait()


async def launch(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> ChildProcess:
    """Start `command` with the number of the inherited socket as its last argument.

    The child gets a session of its own: a Ctrl-C at the terminal reaches this process only, which
    then lets running requests finish. `environment`: None is this process's. Raises OSError.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        descriptor = theirs.fileno()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(descriptor),
                pass_fds=(descriptor,),
                start_new_session=True,
                env=environment,
            )
        except OSError:
            ours.close()
            raise
    return ChildProcess(process, ours)


def main(run: Callable[[socket.socket], int]) -> int:
    """What a child does with the socket whose number is its last argument; returns the exit code.

    It ignores the signals meant for the server: its parent tells it when to end, by hanging up.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[-1])) as connection:
        return run(connection)
