"""What requests put out lately, for others that will put out the same. Bounded."""

from typing import Final

from headrace.engine.speculation.ngram_index import NgramIndex

END: Final = -1
"""Between outputs."""
GENERATION_TOKENS: Final = 1 << 15
MAX_OUTPUT_TOKENS: Final = 4096
"""8 salts (`by_salt.py`) of 2 generations: at most about 130 MB."""


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
