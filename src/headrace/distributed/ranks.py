"""How ranks exchange tensors by `torch.distributed`: NCCL between GPUs, gloo between CPUs.

On the CPU the kernels have collectives of their own (`kernels.RankMemory`), whose memory is
`hosts`' business; those here serve plain torch, and everything that happens once at start.
"""

from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from headrace.distributed.hosts import HostMemory
from headrace.distributed.shard import Shard
from headrace.kernels import RankMemory
from headrace.weights.parts import Slice

PATIENCE = timedelta(minutes=5)
"""After which a rank that waits for another one gives up."""


class Ranks(Protocol):
    """All ranks of one model, as one of them sees them. Everyone makes the same calls in order."""

    shard: Shard
    local_size: int
    """Ranks on this one's host, itself included: they share its memory."""
    device_index: int
    """Of this rank's own, among the CUDA devices that it sees."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, possibly in x's memory."""
        ...

    def all_gather(self, x: Tensor, columns: Slice) -> Tensor:
        """All ranks' columns side by side; x [T, len(columns)] to [T, columns.total]."""
        ...

    def minimum(self, value: int) -> int:
        """The least of all ranks' values."""
        ...

    def total(self, value: int) -> int:
        """The sum of all ranks' values."""
        ...

    def memory(self, slot_floats: int) -> RankMemory | None:
        """For the kernels' collectives, of up to so many values from each rank; None: one rank."""
        ...


class OneRank:
    """The whole model is here."""

    shard = Shard()
    local_size = 1
    device_index = 0

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor, columns: Slice) -> Tensor:
        return x

    def minimum(self, value: int) -> int:
        return value

    def total(self, value: int) -> int:
        return value

    def memory(self, slot_floats: int) -> None:
        return None


class TorchRanks:
    """Ranks in processes of their own, each with its part of the same models."""

    def __init__(self, shard: Shard, device: torch.device, memory: HostMemory) -> None:
        self.shard = shard
        self.local_size = len(memory.here)
        self.device_index = device.index or 0
        self._device = device
        self._memory = memory

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
        return self._reduced(value, torch.distributed.ReduceOp.MIN)

    def total(self, value: int) -> int:
        return self._reduced(value, torch.distributed.ReduceOp.SUM)

    def _reduced(self, value: int, operation: torch.distributed.ReduceOp.RedOpType) -> int:
        reduced = torch.tensor(value, device=self._device)
        torch.distributed.all_reduce(reduced, operation)
        return int(reduced)

    def memory(self, slot_floats: int) -> RankMemory:
        return self._memory.allocate(slot_floats)


def join_ranks(shard: Shard, store: Store, device: torch.device, host: str = "") -> TorchRanks:
    """Wait for all ranks. `host`: what this one is called among those that they are on."""
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=shard.rank,
        world_size=shard.size,
        timeout=PATIENCE,
    )
    return TorchRanks(shard, device, HostMemory(shard, store, host))
