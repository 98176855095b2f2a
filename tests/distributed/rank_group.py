"""Real ranks for tests: processes that run one function after another, all at the same time."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.distributed import TCPStore

from headrace.distributed.ranks import TorchRanks
from headrace.distributed.shard import Shard
from tests.e2e.server import free_port


def _work(rank: int, size: int, port: int, memory: Path, jobs: Connection) -> None:
    torch.set_num_threads(1)
    memory_file = os.open(memory, os.O_RDWR | os.O_CREAT)
    store = TCPStore("127.0.0.1", port, is_master=rank == 0)
    ranks = TorchRanks(Shard(rank, size), store, torch.device("cpu"), memory_file)
    while True:
        try:
            function, arguments, options = jobs.recv()
        except EOFError:
            break
        try:
            jobs.send(function(ranks, *arguments, **options))
        except Exception as error:  # the test shall see it
            jobs.send(error)
    torch.distributed.destroy_process_group()


class RankGroup:
    """`size` processes; use as a context."""

    def __init__(self, size: int, memory: Path) -> None:
        context = multiprocessing.get_context("spawn")
        port = free_port()
        self.size = size
        self._jobs: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(rank, size, port, memory, theirs))
            process.start()
            theirs.close()
            self._jobs.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        """`function(ranks, *arguments, **options)` on every rank; what each returned, or the first
        error."""
        for job in self._jobs:
            job.send((function, arguments, options))
        results = [job.recv() for job in self._jobs]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for job in self._jobs:
            job.close()
        for process in self._processes:
            process.join(20)
            process.kill()
