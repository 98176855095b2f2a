"""Penalties on tokens that occurred before, and the counts they need.

The counts lie on the sampling device as [max_rows, V] tensors that exist only once a row asks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.types import RowStart


@dataclass(frozen=True, slots=True)
class Penalties:
    """Of R rows, [R, 1] each, switched off by 1, 0 and 0."""

    repetition: Tensor
    frequency: Tensor
    presence: Tensor


@dataclass(frozen=True, slots=True)
class GatheredCounts:
    """Copies for R sampled positions."""

    output: Tensor
    """[R, V] int32, how often each token occurs in the output so far."""
    in_prompt: Tensor
    """[R, V] bool."""

    def add_drafted_(
        self,
        index: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        token_ids: npt.NDArray[np.int64],
    ) -> None:
        """Count drafted tokens as output of the positions behind them.

        The R positions are those numbered `index` (ascending) in the step; `positions` are
        numbered likewise, and those that are not among the R are passed over.
        """
        ours = np.isin(positions, index)
        if ours.any():
            rows = np.searchsorted(index, positions[ours])
            _count_(self.output, rows, token_ids[ours])


def penalize(logits: Tensor, counts: GatheredCounts, penalties: Penalties) -> Tensor:
    """Penalised copy of logits [R, V] float32.

    Repetition (Keskar et al. 2019) over prompt and output, then OpenAI's frequency and presence
    penalties over the output.
    """
    in_output = counts.output > 0
    repeated = torch.where(logits > 0, logits / penalties.repetition, logits * penalties.repetition)
    logits = torch.where(in_output | counts.in_prompt, repeated, logits)
    return logits - penalties.frequency * counts.output - penalties.presence * in_output


class TokenCounts:
    """How often each token occurred in each row that has penalties."""

    def __init__(self, max_rows: int, vocab_size: int, device: torch.device) -> None:
        self._shape = (max_rows, vocab_size)
        self._device = device
        self._all: GatheredCounts | None = None

    def start(self, start: RowStart) -> None:
        """Count the row's tokens anew; called for rows with penalties only."""
        if self._all is None:
            self._all = GatheredCounts(self._zeros(torch.int32), self._zeros(torch.bool))
        token_ids = torch.tensor(start.token_ids, dtype=torch.int64, device=self._device)
        prompt, output = token_ids.tensor_split((start.num_prompt_tokens,))
        self._all.in_prompt[start.row] = False
        self._all.in_prompt[start.row, prompt] = True
        self._all.output[start.row] = output.bincount(minlength=self._shape[1])

    def add(self, rows: npt.NDArray[np.int64], token_ids: npt.NDArray[np.int64]) -> None:
        """Count new output tokens, pairs of row and id."""
        assert self._all is not None
        _count_(self._all.output, rows, token_ids)

    def gather(self, rows: npt.NDArray[np.int64]) -> GatheredCounts:
        """Of R rows, started before."""
        assert self._all is not None
        index = torch.from_numpy(rows).to(self._device)
        return GatheredCounts(self._all.output[index], self._all.in_prompt[index])

    def _zeros(self, dtype: torch.dtype) -> Tensor:
        if self._device.type == "cpu":
            # numpy's zeros are untouched pages, so that memory grows with the rows in use only.
            element = torch.empty(0, dtype=dtype).numpy().dtype
            return torch.from_numpy(np.zeros(self._shape, dtype=element))
        return torch.zeros(self._shape, dtype=dtype, device=self._device)


def _count_(counts: Tensor, rows: npt.NDArray[np.int64], token_ids: npt.NDArray[np.int64]) -> None:
    index = (
        torch.from_numpy(rows).to(counts.device),
        torch.from_numpy(token_ids).to(counts.device),
    )
    counts.index_put_(
        index, torch.ones((), dtype=counts.dtype, device=counts.device), accumulate=True
    )
