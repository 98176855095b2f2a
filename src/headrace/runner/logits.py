"""Forbid in logits what a grammar excludes."""

import torch
from torch import Tensor

from headrace.runner.masks import Masks


def allow_(logits: Tensor, masks: Masks) -> None:
    """Forbid what the masks exclude, in logits [R, V]."""
    shifts = torch.arange(32, dtype=torch.int32, device=logits.device)
    bits = (masks.bits[:, :, None] >> shifts & 1).flatten(1)[:, : logits.shape[1]]
    logits[masks.index] = logits[masks.index].masked_fill_(bits == 0, -torch.inf)
