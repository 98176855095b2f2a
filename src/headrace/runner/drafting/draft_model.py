"""A smaller model drafts (Leviathan et al. 2023; Chen et al. 2023), with a paged cache of its own
that the target's block tables serve: prefix sharing and preemption come with them.
"""

from collections.abc import Sequence

from torch import Tensor

from headrace.runner.drafting.base import Turn
from headrace.runner.drafting.ledger import Ledger
from headrace.runner.drafting.passes import DraftPasses, Span
from headrace.types import RowOutput, StepPlan


class DraftModel:
    """See `drafting.base.Drafter`.

    The first pass of a draft also computes what the model has not seen of a row's tokens. If that
    is more than one pass takes, the row drafts when the rest is done, in a later step.
    """

    def __init__(self, passes: DraftPasses, ledger: Ledger, max_num_drafts: int) -> None:
        self.max_num_drafts = max_num_drafts
        self._passes = passes
        self._ledger = ledger
        self._turns: Sequence[Turn] = ()
        self._unfinished: list[Span] = []

    def follow(self, plan: StepPlan, outputs: Sequence[RowOutput]) -> None:
        self._ledger.follow(plan, outputs)

    def limit(self, turns: Sequence[Turn]) -> list[Turn]:
        """Those whose missing tokens all fit into one pass; others go on with what room is left."""
        self._unfinished = []
        room = self._passes.max_tokens
        ready = []
        for turn in self._passes.within_cache(turns):
            start = self._ledger.missing(turn.row, turn.position - 1)
            end = min(turn.position, start + room)
            room -= end - start
            if end == turn.position:
                ready.append(turn)
            elif end > start:
                self._unfinished.append(self._span(turn.row, start, end))
        return ready

    def begin(self, turns: Sequence[Turn], hidden: Tensor) -> None:
        self._turns = turns
        if self._unfinished and not turns:
            self._catch_up()

    def logits(self, token_ids: list[int], depth: int) -> Tensor:
        if depth == 0:
            return self._catch_up()
        spans = []
        for turn, token_id in zip(self._turns, token_ids, strict=False):
            self._ledger.hold_ahead(turn.row, token_id)
            spans.append(Span(turn.row, turn.position - 1 + depth, [token_id]))
        return self._passes.logits(spans, len(spans))

    def _catch_up(self) -> Tensor:
        """Compute all that is missing up to the newest tokens, and what follows these."""
        spans = [
            self._span(turn.row, self._ledger.missing(turn.row, turn.position - 1), turn.position)
            for turn in self._turns
        ]
        logits = self._passes.logits(spans + self._unfinished, len(spans))
        for span in spans + self._unfinished:
            self._ledger.hold(span.row, span.start + len(span.token_ids))
        return logits

    def _span(self, row: int, start: int, end: int) -> Span:
        return Span(row, start, self._ledger.token_ids(row, start, end))
