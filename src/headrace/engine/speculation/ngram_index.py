"""Where the last tokens of a sequence occurred before in a growing text.

Prompt lookup (Saxena 2023) with the longest match instead of a fixed n. The text is indexed as it
grows, a few tokens at a time; nothing is ever looked at twice.
"""

from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

MATCH_LENGTHS: Final = (1, 2, 3, 4, 6, 8, 12, 20)
"""Matches are as long as the largest of these that fits."""
NUM_CANDIDATES: Final = 8
"""Places looked at per lookup, the newest first."""
MAX_NEW_TOKENS: Final = 4096
"""Indexed per call, so that a long prompt holds up no step; about a millisecond."""
NOWHERE: Final = -1


class Match(NamedTuple):
    """The tokens before `end` in the text are the last ones of the sequence."""

    level: int
    """Index into MATCH_LENGTHS."""
    end: int


class NgramIndex:
    """Finds pairs of tokens by hash, and among their places the one with the longest match; where
    there is none, the newest place of the last token.

    About 110 bytes per token.
    """

    __slots__ = ("_last", "_last_single", "_previous", "text")

    def __init__(self, text: list[int]) -> None:
        """`text` is not copied: what is appended to it is indexed by `extend`."""
        self.text = text
        self._last: dict[int, int] = {}
        """By pair, the end of its last occurrence."""
        self._last_single: dict[int, int] = {}
        """The same by single token."""
        self._previous = array("i", [NOWHERE, NOWHERE])
        """By end of a pair, the end of its occurrence before."""

    def extend(self) -> None:
        """Index what was appended, but for the last token: nothing follows it yet."""
        begin = len(self._previous)
        end = min(len(self.text), begin + MAX_NEW_TOKENS)
        text, last, single, previous = self.text, self._last, self._last_single, self._previous
        for position in range(begin, end):
            token = text[position - 1]
            pair = text[position - 2] << 32 | token
            single[token] = position
            previous.append(last.get(pair, NOWHERE))
            last[pair] = position

    def longest_match(self, suffix: list[int], hint: int = NOWHERE) -> Match | None:
        """Of the end of `suffix`; of equally long matches the newest.

        `hint`: a place to look at first, where an earlier match would go on.
        """
        if len(suffix) < 2:
            return None
        newest = self._last.get(suffix[-2] << 32 | suffix[-1], NOWHERE)
        if newest == hint == NOWHERE:
            single = self._last_single.get(suffix[-1], NOWHERE)
            return None if single == NOWHERE else Match(0, single)
        best = Match(-1, NOWHERE)
        for end in self._candidates(newest, hint):
            level = self._level(suffix, end, best.level)
            if level > best.level:
                best = Match(level, end)
        return best if best.level >= 0 else None

    def _candidates(self, end: int, hint: int) -> Iterator[int]:
        if 0 <= hint < len(self.text):
            yield hint
        for _ in range(NUM_CANDIDATES):
            if end == NOWHERE:
                return
            yield end
            end = self._previous[end]

    def _level(self, suffix: list[int], end: int, least: int) -> int:
        """How long the match before `end` is, if longer than `least`."""
        text = self.text
        longest = min(len(suffix), end)
        level = least
        for length in MATCH_LENGTHS[least + 1 :]:
            if length > longest or text[end - length : end] != suffix[-length:]:
                break
            level += 1
        return level
