"""The target model with narrower weights drafts for the target (Zhang et al. 2023, "Draft &
Verify"): nothing to download, and the target's own keys and values to go on from.

It writes its keys and values where the target's will be: those of a draft's tokens are overwritten
when the target verifies them, and before that the target never reads them.
"""

from collections.abc import Sequence

from torch import Tensor

from headrace.runner.drafting.base import Turn
from headrace.runner.drafting.passes import DraftPasses, Span
from headrace.types import RowOutput, StepPlan


class SelfSpeculation:
    """See `drafting.base.Drafter`."""

    def __init__(self, passes: DraftPasses, max_num_drafts: int) -> None:
        self.max_num_drafts = max_num_drafts
        self._passes = passes
        self._turns: Sequence[Turn] = ()

    def follow(self, plan: StepPlan, outputs: Sequence[RowOutput]) -> None:
        """The cache is the target's."""

    def limit(self, turns: Sequence[Turn]) -> list[Turn]:
        return self._passes.within_cache(turns)

    def begin(self, turns: Sequence[Turn], hidden: Tensor) -> None:
        self._turns = turns

    def logits(self, token_ids: list[int], depth: int) -> Tensor:
        spans = [
            Span(turn.row, turn.position - 1 + depth, [token_id])
            for turn, token_id in zip(self._turns, token_ids, strict=False)
        ]
        return self._passes.logits(spans, len(spans))
