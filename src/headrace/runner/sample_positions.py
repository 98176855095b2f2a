"""Which positions of a step are sampled from, and which of their tokens are accepted.

Drafts need nothing else: the sampler's choice at a position depends on the tokens before it only,
so a draft is right exactly when it equals the choice, and what follows a wrong one is dropped. The
accepted tokens are those that plain steps would have chosen, one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from headrace.types import StepPlan

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SamplePositions:
    """R sampled positions of a step; a row that verifies drafts has several, in order."""

    index: Indices
    """[R] into the step's T tokens, each having seen all that comes before its sample."""
    rows: Indices
    """[R] executor rows."""
    positions: Indices
    """[R], the position in its sequence that the sampled token will have."""
    drafts: dict[int, list[int]] = field(default_factory=dict)
    """By index into R, the drafted tokens of the row that come before the position, if any."""
    token_ids: Sequence[int] = ()
    """[T], the step's tokens: the one at `index` stands right before the sample."""


def sample_positions(
    plan: StepPlan, rows: Indices, query_end: Indices, context_lens: Indices
) -> SamplePositions:
    """The trailing `num_samples` positions of each row; the arrays are [S], as in `StepBatch`."""
    if plan.num_samples.count(1) == len(rows):
        return SamplePositions(query_end - 1, rows, context_lens, token_ids=plan.token_ids)
    owners: list[int] = []
    index: list[int] = []
    drafts: dict[int, list[int]] = {}
    for owner, (end, count) in enumerate(zip(query_end.tolist(), plan.num_samples, strict=True)):
        begin = end - count
        for position in range(begin + 1, end):
            drafts[len(index) + position - begin] = plan.token_ids[begin + 1 : position + 1]
        owners += [owner] * count
        index += range(begin, end)
    own, sampled = np.array(owners, np.int64), np.array(index, np.int64)
    positions = (context_lens - query_end)[own] + sampled + 1
    return SamplePositions(sampled, rows[own], positions, drafts, plan.token_ids)


def num_accepted(chosen: list[int], drafts: list[int]) -> int:
    """How many tokens of one row stand: the drafts that were right, and the one behind them."""
    for count, (token_id, draft) in enumerate(zip(chosen, drafts, strict=False), start=1):
        if token_id != draft:
            return count
    return len(chosen)
