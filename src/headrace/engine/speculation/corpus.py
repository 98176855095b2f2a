"""What requests put out lately, for others that will put out the same. Bounded.

Drafts cannot change an output, but how fast it comes could tell what others were answered; so there
is a corpus per cache salt, as there is a prefix cache.
"""

from collections import OrderedDict
from typing import Final

from headrace.engine.speculation.ngram_index import NgramIndex

END: Final = -1
"""Between outputs."""
GENERATION_TOKENS: Final = 1 << 15
MAX_OUTPUT_TOKENS: Final = 4096
MAX_SALTS: Final = 8
"""8 salts of 2 generations of 32,768 tokens: at most about 130 MB."""


class Corpus:
    """Two generations: when the younger is full, the older is forgotten."""

    def __init__(self) -> None:
        self.generations = [NgramIndex([]), NgramIndex([])]

    def add(self, token_ids: list[int]) -> None:
        """Remember (the beginning of) an output. It is indexed by those who look for something."""
        if len(self.generations[0].text) > GENERATION_TOKENS:
            self.generations = [NgramIndex([]), self.generations[0]]
        young = self.generations[0]
        young.text += [*token_ids[:MAX_OUTPUT_TOKENS], END]


class Corpora:
    """By salt, the least recently used forgotten."""

    def __init__(self) -> None:
        self._corpora: OrderedDict[str, Corpus] = OrderedDict()

    def of(self, cache_salt: str) -> Corpus:
        corpus = self._corpora.get(cache_salt)
        if corpus is None:
            corpus = self._corpora[cache_salt] = Corpus()
        self._corpora.move_to_end(cache_salt)
        if len(self._corpora) > MAX_SALTS:
            self._corpora.popitem(last=False)
        return corpus
