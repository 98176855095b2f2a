"""Drafts for a step's rows: a drafter's predictions, sampled one token after another.

A draft is chosen as the target model's token at its position will be: by the same sampling
parameters and the same counter-based random numbers. Both draw by the Gumbel-max trick, so where
two distributions are alike they mostly choose the same token, at any temperature. Nothing here can
change a result: a draft is right only if it is the target's own choice.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from headrace.runner.drafting.base import Drafter, Turn
from headrace.runner.sample_positions import SamplePositions
from headrace.runner.sampler import Sampler
from headrace.types import RowOutput, StepPlan


class DraftChain:
    """A drafter with the sampler that chooses among what it predicts."""

    def __init__(self, drafter: Drafter, sampler: Sampler) -> None:
        self._drafter = drafter
        self._sampler = sampler

    def draft(
        self, plan: StepPlan, outputs: Sequence[RowOutput], at: SamplePositions, hidden: Tensor
    ) -> None:
        """Set `draft_ids` of the outputs for which the plan asks for drafts."""
        self._drafter.follow(plan, outputs)
        if not plan.num_drafts:
            return
        turns = self._drafter.limit(_turns(plan, outputs, at, self._drafter.max_num_drafts))
        turns.sort(key=lambda turn: -turn.count)
        self._drafter.begin(turns, hidden)
        for turn, draft_ids in zip(turns, self._chain(turns), strict=True):
            outputs[turn.index].draft_ids = draft_ids

    def _chain(self, turns: list[Turn]) -> list[list[int]]:
        """The drafts of each turn; turns come sorted by falling count."""
        drafts: list[list[int]] = [[] for _ in turns]
        token_ids = [turn.token_id for turn in turns]
        for depth in range(turns[0].count if turns else 0):
            live = sum(turn.count > depth for turn in turns)
            logits = self._drafter.logits(token_ids[:live], depth)
            at = _positions(turns[:live], token_ids, drafts, depth)
            chosen, is_valid = self._sampler.draft(logits, at)
            if not is_valid.all():
                break
            token_ids = chosen.tolist()
            for draft, token_id in zip(drafts, token_ids, strict=False):
                draft.append(token_id)
        return drafts


def _turns(
    plan: StepPlan, outputs: Sequence[RowOutput], at: SamplePositions, most: int
) -> list[Turn]:
    first_sample = np.cumsum([0, *plan.num_samples])
    turns = []
    for index, count in plan.num_drafts.items():
        if token_ids := outputs[index].token_ids:
            newest = int(first_sample[index]) + len(token_ids) - 1
            turns.append(
                Turn(
                    index=index,
                    row=plan.rows[index],
                    token_id=token_ids[-1],
                    position=int(at.positions[newest]) + 1,
                    state=newest,
                    count=min(count, most),
                )
            )
    return turns


def _positions(
    turns: Sequence[Turn], token_ids: list[int], drafts: list[list[int]], depth: int
) -> SamplePositions:
    return SamplePositions(
        index=np.arange(len(turns)),
        rows=np.array([turn.row for turn in turns]),
        positions=np.array([turn.position for turn in turns]) + depth,
        drafts=dict(enumerate(drafts[: len(turns)])) if depth else {},
        token_ids=token_ids,
    )
