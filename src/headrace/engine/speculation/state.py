"""What speculation keeps of one request."""

from typing import Final

from headrace.engine.speculation.acceptance import Acceptance, Kind
from headrace.engine.speculation.ngram_index import NgramIndex

MAX_INTERVAL: Final = 16
REFUSALS_PER_DOUBLING: Final = 4


class SpeculationState:
    """A request's own index, how right its drafts were, and the draft under observation.

    Drafts are judged whether they were verified or not: the tokens that came tell.
    """

    __slots__ = (
        "_num_refusals", "acceptance", "confidence", "draft_ids", "index", "interval", "kinds",
        "num_known",
    )  # fmt: skip

    def __init__(self, index: NgramIndex, acceptance: Acceptance) -> None:
        self.index = index
        self.acceptance = acceptance
        self.draft_ids: list[int] = []
        """Proposed behind the first `num_known` tokens."""
        self.kinds: list[Kind] = []
        """Of each."""
        self.num_known = 0
        self.confidence = 1.0
        """Probability that all of the draft that will be verified is right."""
        self.interval = 1
        """A look for drafts in steps divisible by this power of two, which are the same for all."""
        self._num_refusals = 0
        """Looks in a row that found nothing worth its time."""

    def observe(self, draft_ids: list[int], kinds: list[Kind], num_known: int) -> None:
        """A new draft."""
        self.draft_ids, self.kinds, self.num_known = draft_ids, kinds, num_known

    def judge(self, token_ids: list[int]) -> None:
        """Compare the draft with the tokens that came behind it."""
        draft_ids = self.draft_ids
        came_ids = token_ids[self.num_known : self.num_known + len(draft_ids)]
        for draft_id, token_id, kind in zip(draft_ids, came_ids, self.kinds, strict=False):
            is_right = draft_id == token_id
            self.acceptance.observe(kind, is_right)
            if not is_right:
                return

    def settle(self, num_drafts: int, confidence: float) -> None:
        """So much of a draft was worth its time, and is right with this probability; after many
        looks in vain they become rare."""
        self.confidence = confidence
        self._num_refusals = 0 if num_drafts else self._num_refusals + 1
        self.interval = min(MAX_INTERVAL, 1 << self._num_refusals // REFUSALS_PER_DOUBLING)
