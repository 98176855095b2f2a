"""Forbid in logits what a grammar excludes."""

import torch
from torch import Tensor


def allow_(logits: Tensor, bitmask: Tensor) -> None:
    """Forbid, in logits [R, V], each token whose bit is 0 in bitmask [R, ceil(V / 32)] int32.

    Token t is bit t % 32 of word t // 32, as grammar libraries pack it.
    """
    bits = bitmask[:, :, None] >> torch.arange(32, dtype=torch.int32, device=bitmask.device) & 1
    allowed = bits.flatten(1)[:, : logits.shape[1]].to(torch.bool)
    logits.masked_fill_(~allowed, -torch.inf)
