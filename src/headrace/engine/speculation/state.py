"""What speculation keeps of one request."""

from headrace.engine.speculation.acceptance import Acceptance, Kind
from headrace.engine.speculation.ngram_index import NgramIndex


class SpeculationState:
    """A request's own index, how right its drafts were, and the draft under observation.

    Drafts are judged whether they were verified or not: the tokens that came tell.
    """

    __slots__ = ("acceptance", "draft_ids", "index", "kind", "match", "num_known")

    def __init__(self, index: NgramIndex, acceptance: Acceptance) -> None:
        self.index = index
        self.acceptance = acceptance
        self.draft_ids: list[int] = []
        """Proposed behind the first `num_known` tokens."""
        self.kind: Kind = 0
        self.num_known = 0
        self.match: tuple[NgramIndex, int] | None = None
        """Where the draft came from."""

    def observe(self, draft_ids: list[int], kind: Kind, num_known: int) -> None:
        """A new draft."""
        self.draft_ids, self.kind, self.num_known = draft_ids, kind, num_known

    def judge(self, token_ids: list[int]) -> None:
        """Compare the draft with the tokens that came behind it."""
        num_right = 0
        is_wrong = False
        for draft_id, token_id in zip(self.draft_ids, token_ids[self.num_known :], strict=False):
            if draft_id != token_id:
                is_wrong = True
                break
            num_right += 1
        if num_right or is_wrong:
            self.acceptance.observe(self.kind, num_right, is_wrong=is_wrong)
