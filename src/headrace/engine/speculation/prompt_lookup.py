"""Drafts what followed the same tokens before: in the request itself, or in recent outputs."""

from bisect import bisect_right
from itertools import chain, repeat
from typing import Final

from headrace.engine.request import Request
from headrace.engine.speculation.acceptance import Kind
from headrace.engine.speculation.by_salt import BySalt
from headrace.engine.speculation.corpus import END, Corpus
from headrace.engine.speculation.ngram_index import MAX_LENGTH, NOWHERE, Match, NgramIndex, keys
from headrace.engine.speculation.proposal import Proposal

CONTEXT_TOKENS: Final = 8
"""Of the prompt that go into the corpus with an output, so that its beginning is found."""
LENGTHS: Final = (1, 2, 3, 4, 6, 8, 12, 20, 32)
"""Matches from one of these to the next are about equally good."""
LEVELS: Final = tuple(bisect_right(LENGTHS, length) - 1 for length in range(MAX_LENGTH + 1))
"""Index into LENGTHS by length."""
UNIQUE, AGREED, DISPUTED = range(0, 3 * len(LENGTHS), len(LENGTHS))
"""What the last occurrence but one says of a token; added to a level they make a kind."""


class PromptLookup:
    """A `Proposer` over the request's own tokens and the corpus of its salt; the longest match
    wins, the own one if they are equal.

    How good a token is depends on how long the match is in front of it, drafted tokens included,
    and on whether the occurrence before the last went on the same way.
    """

    prior_rates: tuple[float, ...] = (
        *(0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8, 0.9),
        *(0.4, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97),
        *(0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.5, 0.6, 0.7),
    )

    def __init__(self) -> None:
        self._corpora = BySalt(Corpus)

    def propose(self, request: Request, num_tokens: int) -> Proposal | None:
        """See `Proposer`."""
        state, suffix = request.speculation, request.token_ids[-MAX_LENGTH:]
        assert state is not None
        suffix_keys = keys(suffix)
        state.index.extend()
        best, source = state.index.match(suffix, suffix_keys), state.index
        for index in self._corpora.of(request.cache_salt).generations:
            index.extend()
            least = best.length + 1 if best else 1
            if match := index.match(suffix, suffix_keys, least):
                best, source = match, index
        return _continuation(source, best, num_tokens) if best else None

    def finish(self, request: Request) -> None:
        """See `Proposer`."""
        begin = max(0, request.num_prompt_tokens - CONTEXT_TOKENS)
        self._corpora.of(request.cache_salt).add(request.token_ids[begin:])


def _continuation(index: NgramIndex, match: Match, num_tokens: int) -> Proposal | None:
    token_ids = index.text[match.end : match.end + num_tokens]
    if END in token_ids:
        token_ids = token_ids[: token_ids.index(END)]
    lengths = LEVELS[match.length : match.length + len(token_ids)]
    levels = chain(lengths, repeat(LEVELS[-1], len(token_ids) - len(lengths)))
    kinds: list[Kind]
    if match.end_before == NOWHERE:
        kinds = [UNIQUE + level for level in levels]
    else:
        num_agreed = _num_equal(token_ids, index.text, match.end_before)
        judgements = chain(repeat(AGREED, num_agreed), repeat(DISPUTED))
        kinds = [level + judgement for level, judgement in zip(levels, judgements, strict=False)]
    return Proposal(token_ids, kinds) if token_ids else None


def _num_equal(token_ids: list[int], text: list[int], begin: int) -> int:
    """How many of the tokens are in the text from `begin` on."""
    if text[begin : begin + len(token_ids)] == token_ids:
        return len(token_ids)
    return next(i for i, token_id in enumerate(token_ids) if text[begin + i] != token_id)
