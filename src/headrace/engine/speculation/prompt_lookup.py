"""Drafts what followed the same tokens before: in the request itself, or in recent outputs."""

from typing import Final

from headrace.engine.request import Request
from headrace.engine.speculation.corpus import END, Corpora
from headrace.engine.speculation.ngram_index import MATCH_LENGTHS, NOWHERE, Match, NgramIndex
from headrace.engine.speculation.proposal import Proposal

CONTEXT_TOKENS: Final = 8
"""Of the prompt that go into the corpus with an output, so that its beginning is found."""


class PromptLookup:
    """A `Proposer` over the request's own tokens and the corpus of its salt; the longest match
    wins, the own one if they are equal."""

    def __init__(self) -> None:
        self._corpora = Corpora()

    def propose(self, request: Request, num_tokens: int) -> Proposal | None:
        """See `Proposer`; the kind is the match's level."""
        state, suffix = request.speculation, request.token_ids[-MATCH_LENGTHS[-1] :]
        assert state is not None
        state.index.extend()
        before, expected = state.match or (None, NOWHERE)
        expected += len(request.token_ids) - state.num_known
        best: tuple[NgramIndex, Match] | None = None
        for index in (state.index, *self._corpora.of(request.cache_salt).generations):
            match = index.longest_match(suffix, expected if index is before else NOWHERE)
            if match is not None and (best is None or match.level > best[1].level):
                best = index, match
        state.match = best and (best[0], best[1].end)
        return best and _continuation(*best, num_tokens)

    def finish(self, request: Request) -> None:
        """See `Proposer`."""
        begin = max(0, request.num_prompt_tokens - CONTEXT_TOKENS)
        self._corpora.of(request.cache_salt).add(request.token_ids[begin:])


def _continuation(index: NgramIndex, match: Match, num_tokens: int) -> Proposal | None:
    token_ids = index.text[match.end : match.end + num_tokens]
    if END in token_ids:
        token_ids = token_ids[: token_ids.index(END)]
    return Proposal(token_ids, match.level) if token_ids else None
