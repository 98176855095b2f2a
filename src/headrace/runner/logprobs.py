"""Log-probabilities of the model's own distribution, before penalties and temperature."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.runner.logits import leading

TopLogprobs = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class SampledLogprobs:
    """Of those L sampled positions that asked, taken before their logits are changed."""

    index: npt.NDArray[np.int64]
    """[L] indices into the step's sampled positions."""
    logprobs: Tensor
    """[L, V]."""

    @classmethod
    def take(cls, logits: Tensor, index: npt.NDArray[np.int64]) -> "SampledLogprobs":
        rows = torch.from_numpy(index).to(logits.device)
        return cls(index, logits.index_select(0, rows).log_softmax(dim=1))

    def of(self, token_ids: npt.NDArray[np.int64]) -> dict[int, float]:
        """By sampled position, the log-probability of its token; token_ids of all positions."""
        chosen = torch.from_numpy(token_ids[self.index, None]).to(self.logprobs.device)
        values = self.logprobs.gather(1, chosen)[:, 0].tolist()
        return dict(zip(self.index.tolist(), values, strict=True))

    def top(self, counts: npt.NDArray[np.int64]) -> dict[int, TopLogprobs]:
        """By sampled position, its counts[l] likeliest tokens, best first; counts is [L]."""
        if not counts.any():
            return {index: [] for index in self.index.tolist()}
        values, ids = leading(self.logprobs, int(counts.max()))
        return {
            index: list(zip(row_ids[:count], row_values[:count], strict=True))
            for index, count, row_ids, row_values in zip(
                self.index.tolist(), counts.tolist(), ids.tolist(), values.tolist(), strict=True
            )
        }
