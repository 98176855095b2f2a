"""Log-probabilities of prompt tokens, for the requests that ask, in bounded memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from headrace.runner.batch import Indices
from headrace.types import RowStart, StepPlan

POSITIONS_PER_SLICE = 64
"""Their logits exist at the same time: 64 MiB for a vocabulary of 256 Ki."""


class PromptLogprobs:
    """Keeps the prompts of the rows that asked."""

    def __init__(self) -> None:
        self._prompts: dict[int, list[int]] = {}

    def start(self, start: RowStart) -> None:
        """A request enters a row; what an earlier one left there goes."""
        self._prompts.pop(start.row, None)
        if start.params.prompt_logprobs:
            self._prompts[start.row] = start.token_ids[: start.num_prompt_tokens]

    def compute(
        self, plan: StepPlan, query_end: Indices, hidden: Tensor, logits: Callable[[Tensor], Tensor]
    ) -> dict[int, list[float]]:
        """By index into the plan's rows, of the tokens that follow this step's prompt positions.

        hidden [T, H] of the step; query_end [S], behind each row's tokens in it; `logits` maps
        hidden states to logits [R, V] float32.
        """
        asked = {}
        for index, row in enumerate(plan.rows):
            start, count = plan.starts[index], plan.counts[index]
            if row in self._prompts and start < len(self._prompts[row]):
                following = self._prompts[row][start + 1 : start + count + 1]
                begin = int(query_end[index]) - count
                asked[index] = _logprobs(hidden[begin : begin + len(following)], following, logits)
        return asked


def _logprobs(
    hidden: Tensor, following: list[int], logits: Callable[[Tensor], Tensor]
) -> list[float]:
    """Of each position's following token; hidden [P, H]."""
    values: list[float] = []
    next_ids = torch.tensor(following, dtype=torch.int64, device=hidden.device)[:, None]
    for states, ids in zip(
        hidden.split(POSITIONS_PER_SLICE), next_ids.split(POSITIONS_PER_SLICE), strict=True
    ):
        values += logits(states).log_softmax(dim=1).gather(1, ids)[:, 0].tolist()
    return values
