"""Log-probabilities of prompt tokens, for the requests that ask, in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from headrace.kernels import Kernels
from headrace.runner.batch import Indices
from headrace.runner.logprobs import SampledLogprobs, TopLogprobs
from headrace.types import RowStart, StepPlan

POSITIONS_PER_SLICE = 64
"""Their logits exist at the same time: 64 MiB for a vocabulary of 256 Ki."""


@dataclass(slots=True)
class PromptScores:
    """Of P consecutive tokens of one prompt."""

    logprobs: list[float] = field(default_factory=list)
    """[P]."""
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    """[P] lists of the likeliest tokens in their places, best first."""


class PromptLogprobs:
    """Keeps the prompts of the rows that asked."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._prompts: dict[int, list[int]] = {}
        self._num_top: dict[int, int] = {}

    def start(self, start: RowStart) -> None:
        """A request enters a row; what an earlier one left there goes."""
        self._prompts.pop(start.row, None)
        if start.params.prompt_logprobs:
            self._prompts[start.row] = start.token_ids[: start.num_prompt_tokens]
            self._num_top[start.row] = start.params.num_top_logprobs or 0

    def reads(self, plan: StepPlan) -> bool:
        """Whether this step computes prompt positions of rows that asked."""
        prompts = self._prompts
        return any(
            row in prompts and start < len(prompts[row])
            for row, start in zip(plan.rows, plan.starts, strict=True)
        )

    def compute(
        self, plan: StepPlan, query_end: Indices, hidden: Tensor, logits: Callable[[Tensor], Tensor]
    ) -> dict[int, PromptScores]:
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
                states = hidden[begin : begin + len(following)]
                asked[index] = _score(self._kernels, states, following, self._num_top[row], logits)
        return asked


def _score(
    kernels: Kernels,
    hidden: Tensor,
    following: list[int],
    num_top: int,
    logits: Callable[[Tensor], Tensor],
) -> PromptScores:
    """Of each position's following token; hidden [P, H]."""
    scores = PromptScores()
    next_ids = np.array(following, dtype=np.int64)
    for first in range(0, len(hidden), POSITIONS_PER_SLICE):
        states = logits(hidden[first : first + POSITIONS_PER_SLICE])
        everything, counts = np.arange(len(states)), np.full(len(states), num_top)
        taken = SampledLogprobs.take(kernels, states, everything, counts, will_change=False)
        scores.logprobs += taken.of(next_ids[first : first + len(states)]).values()
        scores.top_logprobs += taken.top().values()
    return scores
