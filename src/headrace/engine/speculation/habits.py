"""What was chosen last where a grammar allowed the same tokens.

After a number in a JSON text comes the comma that came behind the number before, whatever the
digits were: a mask tells the place better than the tokens before it do. In some places these tell
more, so a mask is a place alone, and once more with each of the last few tokens. Knows masks as
bytes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

MAX_CONTEXT: Final = 2
"""Tokens in front of a mask that make places of it; a third gains nothing (docs/LOG.md)."""
MAX_PLACES: Final = 12288
MEMORY: Final = 0.8
"""What a choice still weighs when the next one is made in the same place."""
PRIOR: Final = 0.5
"""How often a choice is repeated, until that is measured; it weighs as much as one choice."""


class Guess(NamedTuple):
    """A token, and how probable it is."""

    token_id: int
    probability: float


class _Place(NamedTuple):
    token_id: int
    right: float
    trials: float


class Habits:
    """By place, the least recently used forgotten. Threads may share it."""

    def __init__(self) -> None:
        self._places: OrderedDict[int, _Place] = OrderedDict()

    def observe(self, mask: bytes, before_ids: Sequence[int], token_id: int) -> None:
        """This token was chosen among those of the mask, behind these tokens."""
        for key in _places(mask, before_ids):
            right, trials = PRIOR, 1.0
            # Taken out and put in again: what other threads forget meanwhile is never missed.
            if place := self._places.pop(key, None):
                right = place.right * MEMORY + (place.token_id == token_id)
                trials = place.trials * MEMORY + 1
            self._places[key] = _Place(token_id, right, trials)
            if len(self._places) > MAX_PLACES:
                self._places.popitem(last=False)

    def guess(self, mask: bytes, before_ids: Sequence[int]) -> Guess | None:
        """What comes next behind these tokens, by the place that was most reliable; None if all
        are new."""
        found = [self._places.get(key) for key in _places(mask, before_ids)]
        guesses = [Guess(place.token_id, place.right / place.trials) for place in found if place]
        return max(guesses, key=lambda guess: guess.probability, default=None)


def _places(mask: bytes, before_ids: Sequence[int]) -> list[int]:
    """The one with most tokens first, which wins if others are as reliable."""
    last = tuple(before_ids[-MAX_CONTEXT:])
    return [hash((mask, last[begin:])) for begin in range(len(last) + 1)]
