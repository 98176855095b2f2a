"""Find stop strings in text that arrives in arbitrary pieces.

Knows strings only. Works one character at a time on Knuth-Morris-Pratt automata, so the result
cannot depend on where the pieces were cut, and memory is bounded by the longest stop string.
"""


class _Automaton:
    """One stop string; `matched` is the length of its longest prefix that the text ends with."""

    __slots__ = ("failure", "matched", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.matched = 0
        self.failure = _failure_table(pattern)

    def advance(self, character: str) -> bool:
        """Take one more character; True when the text now ends with the whole string."""
        matched, pattern = self.matched, self.pattern
        while matched and pattern[matched] != character:
            matched = self.failure[matched - 1]
        if pattern[matched] == character:
            matched += 1
        self.matched = matched
        return matched == len(pattern)


def _failure_table(pattern: str) -> list[int]:
    """For each prefix, the length of its longest proper suffix that is a prefix too."""
    table, matched = [0], 0
    for character in pattern[1:]:
        while matched and pattern[matched] != character:
            matched = table[matched - 1]
        matched += pattern[matched] == character
        table.append(matched)
    return table


class StopMatcher:
    """Releases text that cannot be the beginning of a stop string any more.

    The first stop string to be completed wins; of two completed by the same character, the
    longer. After a match nothing more may be fed.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        """No stop string may be empty."""
        longest_first = sorted(set(stops), key=len, reverse=True)
        self._automata = [_Automaton(stop) for stop in longest_first]
        self._held = ""
        self.match: str | None = None
        self.rest = ""
        """After a match: what followed the stop string in the last piece."""

    def feed(self, text: str) -> str:
        """Text released by this piece: up to the stop string, without it, when it is found."""
        assert self.match is None
        if not self._automata:
            return text
        if not self._held and not any(a.pattern[0] in text for a in self._automata):
            return text
        buffer = self._held + text
        for position, character in enumerate(text, len(self._held) + 1):
            finished = [a for a in self._automata if a.advance(character)]
            if finished:
                self.match = finished[0].pattern
                self._held = ""
                self.rest = buffer[position:]
                return buffer[: position - len(self.match)]
        keep = max(a.matched for a in self._automata)
        released, self._held = buffer[: len(buffer) - keep], buffer[len(buffer) - keep :]
        return released

    def flush(self) -> str:
        """End of stream: what was held back is ordinary text."""
        held, self._held = self._held, ""
        return held
