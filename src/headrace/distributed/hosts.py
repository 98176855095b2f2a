"""Memory for the kernels' collectives: shared by the ranks of one host, relayed between hosts.

Knows which ranks are where; what stands in the memory is `kernels.ranks`' business.
"""

import mmap
import os
import tempfile
from dataclasses import replace
from functools import partial

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from headrace.distributed.shard import Shard
from headrace.kernels import RankMemory, Relay

HAS_MEMFD = hasattr(os, "memfd_create")


class HostMemory:
    """What this rank shares with the other ranks of its host; every rank makes one.

    The process group exists already.
    """

    def __init__(self, shard: Shard, store: Store, host: str) -> None:
        """`host`: its name; ranks of one host are neighbours."""
        self._shard = shard
        hosts = _everyones(store, "host", shard, host)
        self._leaders = [hosts.index(host) for host in hosts]
        """Of every rank's host: its first rank."""
        self.here = range(hosts.index(host), hosts.index(host) + hosts.count(host))
        assert hosts[self.here.start : self.here.stop] == [host] * len(self.here)
        leaders = sorted(set(self._leaders))
        self._group = torch.distributed.new_group(leaders, backend="gloo")
        self._file = self._open_file(store)
        self._end = 0

    def _open_file(self, store: Store) -> int:
        """One file in memory for all ranks of this host, which ends with the last of them."""
        leader = self.here.start
        if self._shard.rank == leader:
            file, path = _make_file()
            store.set(f"memory of {leader}", path)
        else:
            path = store.get(f"memory of {leader}").decode()
            file = os.open(path, os.O_RDWR)
        _everyones(store, "opened", self._shard)
        if self._shard.rank == leader and not HAS_MEMFD:
            os.unlink(path)
        return file

    def allocate(self, slot_floats: int) -> RankMemory:
        """For collectives of up to so many values from each rank."""
        rank, size = self._shard.rank, self._shard.size
        num_bytes = RankMemory.num_bytes(size, slot_floats)
        # All ranks load the same models in the same order, and so agree on each one's place.
        start = self._end
        self._end += -(-num_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        if os.fstat(self._file).st_size < self._end:
            os.ftruncate(self._file, self._end)
        # Untouched pages cost nothing; torch keeps the mapping alive.
        mapping = mmap.mmap(self._file, num_bytes, offset=start)
        memory = RankMemory(rank, size, torch.frombuffer(mapping, dtype=torch.uint8))
        if len(self.here) == size or rank != self.here.start:
            return memory
        relay = Relay(self.here, partial(self._bring, memory.slots))
        return replace(memory, relay=relay)

    def _bring(self, slots: Tensor, collective: int, floats: int) -> None:
        """See `kernels.Relay`. Every rank's part goes to all hosts, where it is summed in the same
        order: a sum over the network, as gloo has it, would depend on who is where."""
        parts = [
            torch.distributed.broadcast(part[:floats], leader, self._group, async_op=True)
            for part, leader in zip(slots[:, collective % 2], self._leaders, strict=True)
        ]
        for part in parts:
            part.wait()


def _make_file() -> tuple[int, str]:
    """Descriptor and path. Containers have small /dev/shm, but memory of any size."""
    if HAS_MEMFD:
        file = os.memfd_create("headrace-ranks")
        return file, f"/proc/{os.getpid()}/fd/{file}"
    return tempfile.mkstemp(prefix="headrace-ranks-")


def _everyones(store: Store, name: str, shard: Shard, value: str = "") -> list[str]:
    """What every rank says under this name; waits until all have."""
    store.set(f"{name} of {shard.rank}", value)
    return [store.get(f"{name} of {rank}").decode() for rank in range(shard.size)]
