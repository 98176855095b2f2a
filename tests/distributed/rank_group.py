"""Real ranks for tests: processes that run one function after another, all at the same time."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch
from torch.distributed import TCPStore

from headrace.distributed.ranks import TorchRanks
from headrace.distributed.shard import Shard
from tests.e2e.server import free_port


def _work(shard: Shard, port: int, host: str, jobs: Connection) -> None:
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, is_master=shard.rank == 0)
    ranks = TorchRanks(shard, store, torch.device("cpu"), host)
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
    """One process for each of `hosts`, where those with different names share no memory; use as a
    context."""

    def __init__(self, *hosts: str) -> None:
        context = multiprocessing.get_context("spawn")
        port = free_port()
        self.size = len(hosts)
        self._jobs: list[Connection] = []
        self._processes: list[Any] = []
        for rank, host in enumerate(hosts):
            ours, theirs = context.Pipe()
            arguments = (Shard(rank, self.size), port, host, theirs)
            process = context.Process(target=_work, args=arguments)
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
