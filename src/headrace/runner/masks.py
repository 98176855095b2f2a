"""A step's token masks on the device, for just the positions that have one."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headrace.types import StepPlan


@dataclass(frozen=True, slots=True)
class Masks:
    """Of M among the R sampled positions of a step."""

    index: Tensor
    """[M] int64, ascending into R."""
    bits: Tensor
    """[M, ceil(V / 32)] int32: token t is allowed if bit t % 32 of word t // 32 is set."""


def step_masks(plan: StepPlan, device: torch.device) -> Masks | None:
    """None when no row of the plan has a grammar."""
    if not plan.masks:
        return None
    ends = np.cumsum(plan.num_samples)
    index = np.concatenate(
        [np.arange(ends[row] - plan.num_samples[row], ends[row]) for row in plan.masks]
    )
    # torch wants memory that it could write to.
    words = np.frombuffer(bytearray().join(plan.masks.values()), "<i4").reshape(len(index), -1)
    return Masks(torch.from_numpy(index).to(device), torch.from_numpy(words).to(device))
