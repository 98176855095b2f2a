"""Penalties on tokens that occurred before, and the counts they need.

A sequence holds few distinct tokens, so counts are kept and logits changed for these only: the cost
grows with the sequence, not with the vocabulary.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Penalties:
    """Of R rows, [R, 1] each, switched off by 1, 0 and 0."""

    repetition: Tensor
    frequency: Tensor
    presence: Tensor


class TokenCounts:
    """The distinct tokens of one sequence and how often each occurs in its output."""

    def __init__(self, prompt_ids: Sequence[int] = ()) -> None:
        self.num_tokens = len(prompt_ids)
        """Counted so far, prompt included."""
        distinct = dict.fromkeys(prompt_ids)
        self._slots = {token_id: slot for slot, token_id in enumerate(distinct)}
        self._ids = array("q", distinct)
        self._counts = array("i", bytes(4 * len(distinct)))

    def extend(self, token_ids: Sequence[int]) -> None:
        """Count further tokens of output."""
        self.num_tokens += len(token_ids)
        for token_id in token_ids:
            slot = self._slots.setdefault(token_id, len(self._ids))
            if slot == len(self._ids):
                self._ids.append(token_id)
                self._counts.append(0)
            self._counts[slot] += 1

    def with_drafts(self, token_ids: Sequence[int]) -> "TokenCounts":
        """A copy that counts drafted tokens too."""
        copy = TokenCounts()
        copy._slots = self._slots.copy()
        copy._ids, copy._counts = self._ids[:], self._counts[:]
        copy.extend(token_ids)
        return copy

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        return np.array(self._ids, np.int64)

    @property
    def output_counts(self) -> npt.NDArray[np.int32]:
        """0 for tokens that occur in the prompt only."""
        return np.array(self._counts, np.int32)


def penalize_(
    logits: Tensor,
    rows: npt.NDArray[np.int64],
    counts: Sequence[TokenCounts],
    penalties: Penalties,
) -> None:
    """Penalise, in place, R of the rows of logits [_, V] float32.

    Repetition (Keskar et al. 2019) over prompt and output, then OpenAI's frequency and presence
    penalties over the output.
    """
    ids_of_rows = [count.ids for count in counts]
    num_ids = [len(ids) for ids in ids_of_rows]
    device = logits.device
    row = torch.from_numpy(rows.repeat(num_ids)).to(device)
    ids = torch.from_numpy(np.concatenate(ids_of_rows)).to(device)
    output = torch.from_numpy(np.concatenate([c.output_counts for c in counts])).to(device)
    which = torch.from_numpy(np.arange(len(rows)).repeat(num_ids)).to(device)
    repetition = penalties.repetition[which, 0]
    values = logits[row, ids]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= penalties.frequency[which, 0] * output
    values -= penalties.presence[which, 0] * (output > 0)
    logits[row, ids] = values
