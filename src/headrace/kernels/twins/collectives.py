"""The twins of `kernels.ops.collectives`."""

import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.kernels.ops import AllGather, AllReduce
from headrace.kernels.ranks import RANK_LINE_BYTES, RankMemory


def all_reduce(op: AllReduce, count: int) -> None:
    parts = _exchange(op.ranks, op.x[:count])
    total = sum(parts[1:], start=parts[0])
    op.out[:count] = op.out[:count] + total if op.accumulate else total


def all_gather(op: AllGather, count: int) -> None:
    ranks, columns = op.ranks, op.out.shape[1]
    widths = [replace(ranks, rank=rank).columns(columns) for rank in range(ranks.size)]
    parts = _exchange(ranks, op.x[:count], [last - first for first, last in widths])
    op.out[:count] = torch.cat(parts, -1)


def _exchange(ranks: RankMemory, x: Tensor, widths: list[int] | None = None) -> list[Tensor]:
    """Every rank's x [T, width], by way of the memory as csrc/ranks.h describes it."""
    if not len(x):
        return [x] * ranks.size
    lines = ranks.storage[: RANK_LINE_BYTES * ranks.size].view(torch.int32).numpy()
    arrived = lines[:: RANK_LINE_BYTES // 4]
    mine = int(arrived[ranks.rank]) + 1
    current = ranks.slots[:, mine % 2]
    current[ranks.rank, : x.numel()] = x.flatten()
    arrived[ranks.rank] = mine
    sizes = [len(x) * width for width in widths or [x.shape[1]] * ranks.size]
    if ranks.relay is not None:
        here = ranks.relay.here
        _wait_for(arrived[here.start : here.stop], mine)
        if ranks.relay(mine, max(sizes)) != 0:
            raise ValueError("the ranks of another host cannot be reached")
        arrived[: here.start] = arrived[here.stop :] = mine
    _wait_for(arrived, mine)
    return [slot[:size].view(len(x), -1) for slot, size in zip(current, sizes, strict=True)]


def _wait_for(arrived: npt.NDArray[np.int32], collective: int) -> None:
    while (arrived - collective < 0).any():
        time.sleep(0)
