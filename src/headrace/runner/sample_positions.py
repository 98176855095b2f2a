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
    num_samples = np.array(plan.num_samples)
    owner = np.repeat(np.arange(len(rows)), num_samples)
    from_end = np.repeat(np.cumsum(num_samples), num_samples) - np.arange(len(owner))
    positions = SamplePositions(
        query_end[owner] - from_end,
        rows[owner],
        context_lens[owner] - from_end + 1,
        token_ids=plan.token_ids,
    )
    if len(owner) and num_samples.max() > 1:
        _note_drafts(plan, positions, num_samples)
    return positions


def _note_drafts(plan: StepPlan, positions: SamplePositions, num_samples: Indices) -> None:
    first = 0
    for count in num_samples.tolist():
        for offset in range(1, count):
            begin = int(positions.index[first]) + 1
            positions.drafts[first + offset] = plan.token_ids[begin : begin + offset]
        first += count


def num_accepted(chosen: list[int], drafts: list[int]) -> int:
    """How many tokens of one row stand: the drafts that were right, and the one behind them."""
    for count, (token_id, draft) in enumerate(zip(chosen, drafts, strict=False), start=1):
        if token_id != draft:
            return count
    return len(chosen)
