"""What was chosen last where a grammar allowed the same tokens.

After a number in a JSON text comes the comma that came behind the number before, whatever the
digits were: a mask tells the place better than the tokens before it do. Knows masks as bytes.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

MAX_PLACES: Final = 4096
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

    def observe(self, mask: bytes, token_id: int) -> None:
        """This token was chosen among those of the mask."""
        key, right, trials = hash(mask), PRIOR, 1.0
        # Taken out and put in again: what other threads forget meanwhile is never missed.
        if place := self._places.pop(key, None):
            right = place.right * MEMORY + (place.token_id == token_id)
            trials = place.trials * MEMORY + 1
        self._places[key] = _Place(token_id, right, trials)
        if len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)

    def guess(self, mask: bytes) -> Guess | None:
        """What comes next in this place; None if it is new."""
        place = self._places.get(hash(mask))
        return place and Guess(place.token_id, place.right / place.trials)
