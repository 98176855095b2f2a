"""The further ranks of an engine: processes that it starts or finds in a cluster, tells every plan,
and dies with.

Plans go one way. What a rank could say is its end: a rank that is gone ends the engine, whose
client starts it anew as a whole; an engine that is gone ends its ranks (see `end_with_peer`).
"""

import logging
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Thread

import msgspec
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from headrace.config import Settings
from headrace.distributed.ranks import TorchRanks, join_ranks
from headrace.distributed.shard import Shard
from headrace.engine.channel import FrameWriter
from headrace.errors import StartupError
from headrace.runner.device import choose_device
from headrace.serve.launch import EngineOrder, ModelFiles, Place
from headrace.types import Executor, StepOutput, StepPlan

log = logging.getLogger(__name__)

RANK_MODULE = "headrace.serve.rank_process"
HERE = "127.0.0.1"
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 10
"""Of a host that does not even acknowledge; then it counts as gone."""


class RankOrder(msgspec.Struct, frozen=True):
    """All that a rank needs to know; the first message that a further rank gets."""

    settings: Settings
    files: ModelFiles
    rank: int
    store: tuple[str, int]
    """Address of rank 0's `torch.distributed.TCPStore`."""
    host: str
    device_index: int
    """Of its CUDA device among those that its process sees."""

    def join(self, store: TCPStore | None = None) -> TorchRanks:
        """Wait for all ranks; rank 0 brings the store."""
        shard = Shard(self.rank, self.settings.num_shard or 1)
        device = choose_device(self.settings, self.device_index)
        return join_ranks(shard, store or TCPStore(*self.store), device, self.host)


OnEnd = Callable[[str], None]
Start = Callable[[RankOrder, OnEnd], socket.socket]


def start_ranks(engine: EngineOrder, on_end: OnEnd) -> tuple[TorchRanks, list[socket.socket]]:
    """Start all further ranks, or call those that wait in their places, and join them as rank 0.

    Returns the group, and a socket to each for plans. `on_end` is called, in another thread and
    with what to tell people, when a rank ends. Raises StartupError when one cannot be reached.
    """
    places = engine.places
    store = _open_store(places[0].address if places else HERE)
    first = RankOrder(engine.settings, engine.files, 0, (store.host, store.port), "", 0)
    if places:
        # In a cluster each process sees only the devices that are its own.
        orders = [
            msgspec.structs.replace(first, rank=rank, host=place.host, files=place.files)
            for rank, place in enumerate(places)
        ]
        starts: list[Start] = [partial(_call, place) for place in places[1:]]
    else:
        num_ranks = engine.settings.num_shard or 1
        orders = [
            msgspec.structs.replace(first, rank=rank, device_index=rank)
            for rank in range(num_ranks)
        ]
        starts = [_start] * (num_ranks - 1)
    sockets = [start(order, on_end) for start, order in zip(starts, orders[1:], strict=True)]
    return orders[0].join(store), sockets


def _open_store(address: str) -> TCPStore:
    """On any free port; only those who can reach `address` can reach it."""
    listener = socket.create_server((address, 0))
    return TCPStore(
        address,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _start(order: RankOrder, on_end: OnEnd) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", RANK_MODULE, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
        )
    ours.sendall(FrameWriter().frame(order))

    def report() -> None:
        if code := process.wait():  # with 0 it follows this process
            on_end(f"rank {order.rank} (process {process.pid}) ended with {code}")

    Thread(target=report, daemon=True).start()
    return ours


def _call(place: Place, order: RankOrder, on_end: OnEnd) -> socket.socket:
    try:
        ours = socket.create_connection((place.address, place.port), CONNECT_SECONDS)
    except OSError as error:
        raise StartupError(f"rank {order.rank} on {place.address}: {error}") from None
    ours.settimeout(None)
    notice_silence(ours)
    ours.sendall(FrameWriter().frame(order))
    _when_closed(ours, lambda: on_end(f"rank {order.rank} on {place.address} is gone"))
    return ours


def notice_silence(connection: socket.socket) -> None:
    """Let a TCP connection end by itself when the other host is gone without a word."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("KEEPIDLE", SILENCE_SECONDS // 2), ("KEEPINTVL", 1), ("KEEPCNT", 5)):
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{option}"), value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)


def end_with_peer(connection: socket.socket) -> None:
    """End this process when the other side of `connection` is closed, whatever it is doing."""
    _when_closed(connection, lambda: os._exit(0))


def _when_closed(connection: socket.socket, function: Callable[[], None]) -> None:
    def watch() -> None:
        hang_up = select.poll()
        # Besides what cannot be ignored, TCP's word that nothing more will come.
        hang_up.register(connection, getattr(select, "POLLRDHUP", 0))
        hang_up.poll()
        function()

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

    def prepare(self) -> bool:
        """Rank 0's own part; the others prepare theirs while they wait for plans."""
        return self._executor.prepare()
