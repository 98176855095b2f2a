"""Requests as a sampler sees them, for the tests."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headrace.kernels import Kernels, TorchKernels
from headrace.runner.masks import Masks
from headrace.runner.sample_positions import SamplePositions
from headrace.runner.sampler import Sampler, Samples
from headrace.types import RowStart, SamplingParams

CPU = torch.device("cpu")
TWINS: Kernels = TorchKernels("test")


def row_start(
    row: int, params: SamplingParams, token_ids: Sequence[int] = (1,), num_prompt_tokens: int = 1
) -> RowStart:  # fmt: skip
    return RowStart(
        row=row, params=params, token_ids=list(token_ids), num_prompt_tokens=num_prompt_tokens
    )


def sample(
    kernels: Kernels, logits: Tensor, starts: list[RowStart], masks: Masks | None = None
) -> Samples:
    """One step with one position per row, each behind all of the row's tokens."""
    sampler = Sampler(max(start.row for start in starts) + 1, kernels)
    for start in starts:
        sampler.start(start)
    at = SamplePositions(
        np.arange(len(starts)),
        np.array([start.row for start in starts]),
        np.array([len(start.token_ids) for start in starts]),
        token_ids=[start.token_ids[-1] for start in starts],
    )
    return sampler.sample(logits.clone(), at, masks)
