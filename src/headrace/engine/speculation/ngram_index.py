"""Where the last tokens of a sequence occurred before in a growing text.

Prompt lookup (Saxena 2023) with the longest of a few lengths. The text is indexed as it grows, a
few tokens at a time; nothing is ever looked at twice. Hot file: runs for every request of every
step.
"""

from array import array
from typing import Final, NamedTuple

ORDERS: Final = (4, 2, 1)
"""Lengths of the indexed n-grams. Their newest places predict as well as the longest of all matches
does (docs/LOG.md), and are found at once."""
MAX_LENGTH: Final = 32
"""Longer matches are not told apart."""
MAX_NEW_TOKENS: Final = 1024
"""Indexed per call, so that a long prompt holds up no step; about a millisecond."""
NOWHERE: Final = 0
BEFORE: Final = [-2] * (max(ORDERS) - 1)
"""Stands in front of every text, so that its first tokens end n-grams too."""


class Match(NamedTuple):
    """The tokens before `end` in the text are the last ones of the sequence."""

    length: int
    """How many of them, at most MAX_LENGTH."""
    end: int
    end_before: int
    """Of the n-gram's occurrence before; NOWHERE if there is none."""


class Keys(NamedTuple):
    """Of the n-grams at the end of a sequence, by `ORDERS`."""

    four: int
    two: int
    one: int


def keys(token_ids: list[int]) -> Keys:
    """Of a sequence of at least one token."""
    a, b, c, d = [*BEFORE, *token_ids[-4:]][-4:]
    return Keys(hash((a, b, c, d)), c << 32 | d, d)


class NgramIndex:
    """The newest place of every n-gram, and the place before each. About 250 bytes per token."""

    __slots__ = ("_before", "_last", "text")

    def __init__(self, text: list[int]) -> None:
        """`text` is not copied: what is appended to it is indexed by `extend`."""
        self.text = text
        self._last: list[dict[int, int]] = [{} for _ in ORDERS]
        """By order and key, the end of the last occurrence."""
        self._before = [array("i", [NOWHERE]) for _ in ORDERS]
        """By order and end of an n-gram, the end of its occurrence before."""

    def extend(self) -> None:
        """Index what was appended, but for the last token: nothing follows it yet."""
        begin = len(self._before[0])
        stop = min(len(self.text), begin + MAX_NEW_TOKENS)
        if begin >= stop:
            return
        fours, twos, ones = self._last
        before_four, before_two, before_one = self._before
        a, b, c = [*BEFORE, *self.text[max(0, begin - 4) : begin - 1]][-3:]
        for end, d in enumerate(self.text[begin - 1 : stop - 1], begin):
            four, two = hash((a, b, c, d)), c << 32 | d
            before_four.append(fours.get(four, NOWHERE))
            before_two.append(twos.get(two, NOWHERE))
            before_one.append(ones.get(d, NOWHERE))
            fours[four] = twos[two] = ones[d] = end
            a, b, c = b, c, d

    def match(self, suffix: list[int], suffix_keys: Keys, least: int = 1) -> Match | None:
        """The newest place of the longest n-gram at the end of `suffix`, if the match there has the
        length `least`."""
        for order, last, before, key in zip(
            ORDERS, self._last, self._before, suffix_keys, strict=True
        ):
            if end := last.get(key, NOWHERE):
                length = self._length(suffix, end) if order == ORDERS[0] else order
                return Match(length, end, before[end]) if length >= least else None
        return None

    def _length(self, suffix: list[int], end: int) -> int:
        """Of the match before `end`."""
        text = self.text
        longest = min(len(suffix), end, MAX_LENGTH)
        if text[end - longest : end] == suffix[-longest:]:
            return longest
        length = 0
        while text[end - 1 - length] == suffix[-1 - length]:
            length += 1
        return length
