"""Real ranks for tests: processes that run one function after another, all at the same time."""

import copy
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

import torch
from torch.distributed import PrefixStore, TCPStore

from headrace.distributed.hosts import HostMemory
from headrace.distributed.ranks import TorchRanks, join_ranks
from headrace.distributed.shard import Shard


def _work(shard: Shard, port: int, jobs: Connection) -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    store = TCPStore("127.0.0.1", port)
    ranks = {"a" * shard.size: join_ranks(shard, store, device, "a")}
    while True:
        try:
            hosts, function, arguments, options = jobs.recv()
        except EOFError:
            break
        if hosts not in ranks:
            memory = HostMemory(shard, PrefixStore(hosts, store), hosts[shard.rank])
            ranks[hosts] = TorchRanks(shard, device, memory)
        try:
            jobs.send(function(ranks[hosts], *arguments, **options))
        except Exception as error:  # the test shall see it
            jobs.send(error)
    torch.distributed.destroy_process_group()


class RankGroup:
    """`size` processes; use as a context."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.size = size
        self._hosts = "a" * size
        self._jobs: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            arguments = (Shard(rank, size), self._store.port, theirs)
            process = context.Process(target=_work, args=arguments)
            process.start()
            theirs.close()
            self._jobs.append(ours)
            self._processes.append(process)

    def on(self, hosts: str) -> "RankGroup":
        """The same processes, as if they were on these hosts: one letter for each rank."""
        group = copy.copy(self)
        group._hosts = hosts
        return group

    def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        """`function(ranks, *arguments, **options)` on every rank; what each returned, or the first
        error."""
        for job in self._jobs:
            job.send((self._hosts, function, arguments, options))
        results = [job.recv() for job in self._jobs]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs:
            job.close()
        for process in self._processes:
            process.join(20)
            process.kill()
