"""What the ranks of one model do together."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from headrace.kernels.ops.op import Abilities, Op
from headrace.kernels.ranks import RankMemory
from headrace.kernels.tensors import check, check_equal


@dataclass(frozen=True, slots=True)
class AllReduce(Op):
    """out = sum of x over all ranks, or with `accumulate` added to out. x, out [T, F].

    Every rank calls it with as many rows. They are added in the order of ranks, whoever comes
    first: all ranks get the same bits.
    """

    ranks: RankMemory
    x: Tensor
    out: Tensor
    _: KW_ONLY
    accumulate: bool = False

    def check(self, kernels: Abilities) -> int:
        check(self.x, "x", torch.float32, None, None)
        check(self.out, "out", torch.float32, *self.x.shape)
        _check_slot(self.ranks, self.x)
        return len(self.x)


@dataclass(frozen=True, slots=True)
class AllGather(Op):
    """out = all ranks' columns side by side. x [T, this rank's share of C], out [T, C]."""

    ranks: RankMemory
    x: Tensor
    out: Tensor

    def check(self, kernels: Abilities) -> int:
        check(self.x, "x", torch.float32, None, None)
        check(self.out, "out", torch.float32, len(self.x), None)
        first, last = self.ranks.columns(self.out.shape[1])
        check_equal("x: columns", self.x.shape[1], last - first)
        _check_slot(self.ranks, self.x)
        return len(self.x)


def _check_slot(ranks: RankMemory, x: Tensor) -> None:
    check(ranks.storage, "ranks: storage", torch.uint8, None)
    if x.nbytes > ranks.slot_bytes:
        raise ValueError(f"x: {x.nbytes} bytes do not fit into the {ranks.slot_bytes} of ranks")
