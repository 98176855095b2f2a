"""Log-probabilities of the model's own distribution, before penalties and temperature."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.kernels import Kernels, ops

TopLogprobs = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class SampledLogprobs:
    """Of those L sampled positions that asked, taken before their logits are changed."""

    index: npt.NDArray[np.int64]
    """[L] indices into the step's sampled positions."""
    counts: npt.NDArray[np.int64]
    """[L], how many of the likeliest tokens were asked for."""
    logits: Tensor
    rows: Tensor
    """The positions' unchanged logits are logits[rows]; rows is [L]."""
    leading_ids: Tensor
    leading_logprobs: Tensor
    """[L, K], K being the largest count."""
    normalizers: Tensor
    """[L]."""

    @classmethod
    def take(
        cls,
        kernels: Kernels,
        logits: Tensor,
        index: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        *,
        will_change: bool,
    ) -> "SampledLogprobs":
        """Of logits [R, V], which the caller may change in place only with `will_change`.

        counts [L]: how many of the likeliest tokens each position asks for.
        """
        rows = torch.from_numpy(index).to(logits.device)
        shape = (len(index), min(int(counts.max()), logits.shape[1]))
        ids = torch.empty(shape, dtype=torch.int64, device=logits.device)
        logprobs = torch.empty(shape, device=logits.device)
        normalizers = torch.empty(len(index), device=logits.device)
        kernels.run(ops.TopLogprobs(logits, rows, ids, logprobs, normalizers))
        if will_change:
            logits, rows = logits[rows], torch.arange(len(index), device=logits.device)
        return cls(index, counts, logits, rows, ids, logprobs, normalizers)

    def of(self, token_ids: npt.NDArray[np.int64]) -> dict[int, float]:
        """By sampled position, the log-probability of its token; token_ids of all positions."""
        chosen = torch.from_numpy(token_ids[self.index]).to(self.logits.device)
        values = (self.logits[self.rows, chosen] - self.normalizers).tolist()
        return dict(zip(self.index.tolist(), values, strict=True))

    def top(self) -> dict[int, TopLogprobs]:
        """By sampled position, its likeliest tokens, best first."""
        return {
            index: list(zip(ids[:count], logprobs[:count], strict=True))
            for index, count, ids, logprobs in zip(
                self.index.tolist(),
                self.counts.tolist(),
                self.leading_ids.tolist(),
                self.leading_logprobs.tolist(),
                strict=True,
            )
        }
