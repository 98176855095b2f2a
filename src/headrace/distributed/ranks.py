"""How ranks exchange tensors by `torch.distributed`: NCCL between GPUs, gloo between CPUs.

On one machine's CPU the kernels have collectives of their own (`kernels.RankMemory`), which this
also sets up; those here serve plain torch, and everything that happens once at start.
"""

import mmap
import os
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from headrace.distributed.shard import Shard
from headrace.kernels import RankMemory
from headrace.weights.parts import Slice

PATIENCE = timedelta(minutes=5)
"""After which a rank that waits for another one gives up."""


class Ranks(Protocol):
    """All ranks of one model, as one of them sees them. Everyone makes the same calls in order."""

    shard: Shard

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, possibly in x's memory."""
        ...

    def all_gather(self, x: Tensor, columns: Slice) -> Tensor:
        """All ranks' columns side by side; x [T, len(columns)] to [T, columns.total]."""
        ...

    def minimum(self, value: int) -> int:
        """The least of all ranks' values."""
        ...

    def memory(self, slot_floats: int) -> RankMemory | None:
        """For the kernels' collectives, of up to so many values from each rank; None: one rank."""
        ...


class OneRank:
    """The whole model is here."""

    shard = Shard()

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor, columns: Slice) -> Tensor:
        return x

    def minimum(self, value: int) -> int:
        return value

    def memory(self, slot_floats: int) -> None:
        return None


class TorchRanks:
    """Ranks in processes of their own, each with its part of the same models."""

    def __init__(self, shard: Shard, store: Store, device: torch.device, memory_file: int) -> None:
        """`memory_file`: descriptor of an empty file in memory that all ranks of this machine have
        inherited."""
        self.shard = shard
        self._memory_file = memory_file
        self._memory_end = 0
        self._device = device
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=shard.rank,
            world_size=shard.size,
            timeout=PATIENCE,
        )

    def all_reduce(self, x: Tensor) -> Tensor:
        torch.distributed.all_reduce(x)
        return x

    def all_gather(self, x: Tensor, columns: Slice) -> Tensor:
        # Shares may differ by one column; collectives want equal ones.
        width = -(-columns.total // self.shard.size)
        padded = torch.nn.functional.pad(x, (0, width - x.shape[1]))
        parts = [torch.empty_like(padded) for _ in range(self.shard.size)]
        torch.distributed.all_gather(parts, padded)
        shares = [Shard(rank, self.shard.size).slice(columns.total) for rank in range(len(parts))]
        return torch.cat(
            [part[:, : len(share)] for part, share in zip(parts, shares, strict=True)], 1
        )

    def minimum(self, value: int) -> int:
        least = torch.tensor(value, device=self._device)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        return int(least)

    def memory(self, slot_floats: int) -> RankMemory:
        num_bytes = RankMemory.num_bytes(self.shard.size, slot_floats)
        # All ranks load the same models in the same order, and so agree on each one's place.
        start = self._memory_end
        self._memory_end += -(-num_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        if os.fstat(self._memory_file).st_size < self._memory_end:
            os.ftruncate(self._memory_file, self._memory_end)
        # Untouched pages cost nothing; torch keeps the mapping alive.
        mapping = mmap.mmap(self._memory_file, num_bytes, offset=start)
        storage = torch.frombuffer(mapping, dtype=torch.uint8)
        return RankMemory(self.shard.rank, self.shard.size, storage)
