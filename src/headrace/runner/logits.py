"""Two plain functions of logits: forbid what a grammar excludes, and find the leading ones."""

import torch
from torch import Tensor


def allow_(logits: Tensor, bitmask: Tensor) -> None:
    """Forbid, in logits [R, V], each token whose bit is 0 in bitmask [R, ceil(V / 32)] int32.

    Token t is bit t % 32 of word t // 32, as grammar libraries pack it.
    """
    bits = bitmask[:, :, None] >> torch.arange(32, dtype=torch.int32, device=bitmask.device) & 1
    allowed = bits.flatten(1)[:, : logits.shape[1]].to(torch.bool)
    logits.masked_fill_(~allowed, -torch.inf)


def leading(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of [R, V], best first, lower ids first among equals.

    Returns values and ids, [R, min(count, V)]. torch.topk breaks ties arbitrarily, so rows with a
    tie across the border of the selection are sorted whole; ids of -inf entries are arbitrary.
    """
    if count >= values.shape[1]:
        return values.sort(dim=1, descending=True, stable=True)
    top_values, ids = values.topk(count + 1, dim=1)
    border = top_values[:, count]
    tied = (border == top_values[:, count - 1]) & (border > -torch.inf)
    ids = ids[:, :count].sort(dim=1).values
    top_values, order = values.gather(1, ids).sort(dim=1, descending=True, stable=True)
    ids = ids.gather(1, order)
    if tied.any():
        whole, whole_ids = values[tied].sort(dim=1, descending=True, stable=True)
        top_values[tied], ids[tied] = whole[:, :count], whole_ids[:, :count]
    return top_values, ids
