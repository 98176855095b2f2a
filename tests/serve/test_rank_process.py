"""How a further rank comes to its order: from its parent, or from rank 0 on another host."""

import socket

import msgspec
import pytest

from headrace.config import Settings
from headrace.engine.channel import FrameWriter
from headrace.serve import rank_process
from headrace.serve.launch import ModelFiles
from headrace.serve.rank_process import wait_for_order
from headrace.serve.ranks import RankOrder

ORDER = RankOrder(Settings(num_shard=2), ModelFiles("/model"), 1, ("127.0.0.1", 1), "host", 0)


def same(one: RankOrder, other: RankOrder) -> bool:
    return msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)


def test_from_the_process_that_started_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(FrameWriter().frame(ORDER))
        ordered = wait_for_order(theirs)
        assert ordered is not None
        assert ordered[0] is theirs and same(ordered[1], ORDER)


def test_from_another_host() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as ours,
    ):
        ours.sendall(FrameWriter().frame(ORDER))
        ordered = wait_for_order(listener)
        assert ordered is not None
        connection, order = ordered
        with connection:
            assert connection.getpeername() == ours.getsockname() and same(order, ORDER)
            assert connection.gettimeout() is None


def test_nobody_calls_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([7, 1])
    monkeypatch.setattr(rank_process.os, "getppid", lambda: next(parents))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert wait_for_order(listener) is None


def test_rank_0_hangs_up_without_a_word() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        assert wait_for_order(theirs) is None
