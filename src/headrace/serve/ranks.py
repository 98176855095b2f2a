"""The further ranks of an engine: processes that it starts, tells every plan, and dies with.

Plans go one way. What a rank could say is its end: a rank that is gone ends the engine, whose
client starts it anew as a whole; an engine that is gone ends its ranks (see `end_with_peer`).
"""

import logging
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread

import msgspec
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from headrace.distributed.ranks import TorchRanks
from headrace.distributed.shard import Shard
from headrace.engine.channel import FrameWriter
from headrace.runner.device import choose_device
from headrace.serve.launch import EngineOrder
from headrace.types import Executor, StepOutput, StepPlan

log = logging.getLogger(__name__)

RANK_MODULE = "headrace.serve.rank_process"


class RankOrder(msgspec.Struct, frozen=True):
    """All that a further rank needs to know; the first message that it gets."""

    engine: EngineOrder
    """What rank 0 got."""
    rank: int
    store_port: int
    """Where rank 0's `torch.distributed.TCPStore` listens."""
    memory_file: int
    """Inherited descriptor, see `TorchRanks`."""

    def join(self, store: TCPStore | None = None) -> TorchRanks:
        """Wait for all ranks; rank 0 brings the store."""
        settings = self.engine.settings
        size = settings.num_shard or 1
        store = store or TCPStore("127.0.0.1", self.store_port)
        device = choose_device(settings, self.rank)
        return TorchRanks(Shard(self.rank, size), store, device, self.memory_file)


def start_ranks(
    engine: EngineOrder, on_end: Callable[[str], None]
) -> tuple[TorchRanks, list[socket.socket]]:
    """Start all further ranks and join them as rank 0.

    Returns the group, and a socket to each for plans. `on_end` is called, in another thread and
    with what to tell people, when a rank ends.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    order = RankOrder(engine, 0, store.port, _memory_file())
    sockets = [
        _start(msgspec.structs.replace(order, rank=rank), on_end)
        for rank in range(1, engine.settings.num_shard or 1)
    ]
    return order.join(store), sockets


def _memory_file() -> int:
    """Without a name: it goes with the last process that has it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("headrace-ranks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _start(order: RankOrder, on_end: Callable[[str], None]) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", RANK_MODULE, str(theirs.fileno())],
            pass_fds=(theirs.fileno(), order.memory_file),
        )
    ours.sendall(FrameWriter().frame(order))

    def report() -> None:
        if code := process.wait():  # with 0 it follows this process
            on_end(f"rank {order.rank} (process {process.pid}) ended with {code}")

    Thread(target=report, daemon=True).start()
    return ours


def end_with_peer(connection: socket.socket) -> None:
    """End this process when the other side of `connection` is closed, whatever it is doing."""

    def watch() -> None:
        hang_up = select.poll()
        hang_up.register(connection, 0)  # only what cannot be ignored: the end
        hang_up.poll()
        os._exit(0)

    Thread(target=watch, daemon=True).start()


class BroadcastExecutor:
    """Rank 0's `Executor`: sends each plan to all other ranks, then runs it as they do.

    Every rank comes to the same result, sampling included, so that none has to tell another.
    """

    def __init__(self, executor: Executor, ranks: Sequence[socket.socket]) -> None:
        self._executor = executor
        self._ranks = ranks
        self._writer = FrameWriter()

    def execute(self, plan: StepPlan) -> StepOutput:
        frame = self._writer.frame(plan)
        for rank in self._ranks:
            with suppress(BrokenPipeError, ConnectionResetError):  # its end is noticed elsewhere
                rank.sendall(frame)
        return self._executor.execute(plan)
