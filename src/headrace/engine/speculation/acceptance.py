"""How often drafted tokens are right: measured, by kind, for all requests and for each."""

from collections.abc import Sequence
from typing import Final

Kind = int
"""Index of a rate: drafted tokens of one kind are about equally good."""

MEMORY: Final = 0.94
"""What a trial still weighs in a request's rate when the next one of its kind comes."""
COMMON_MEMORY: Final = 0.99
"""The same in the rate of all requests."""
PRIOR_TRIALS: Final = 2.0
"""What the prior weighs, that is, the rate of all requests in that of one."""
MAX_RATE: Final = 0.99


class Acceptance:
    """Probability, by kind, that a drafted token is right, given that those before it are.

    Exponentially fading means of trials over a prior: given rates for those of all requests, which
    are the prior of each.
    """

    __slots__ = ("_common", "_prior", "_right", "_trials", "rates")

    def __init__(self, prior: "Sequence[float] | Acceptance") -> None:
        self._common = prior if isinstance(prior, Acceptance) else None
        self._prior: Sequence[float] = prior.rates if isinstance(prior, Acceptance) else prior
        self.rates: list[float] = list(self._prior)
        """By kind; to be read only."""
        self._right = [0.0] * len(self.rates)
        self._trials = [0.0] * len(self.rates)

    def observe(self, kind: Kind, is_right: bool) -> None:
        """A drafted token whose turn came was right, or not."""
        memory = MEMORY
        if self._common is None:
            memory = COMMON_MEMORY
        else:
            self._common.observe(kind, is_right)
        right = self._right[kind] = self._right[kind] * memory + is_right
        trials = self._trials[kind] = self._trials[kind] * memory + 1
        rate = (right + PRIOR_TRIALS * self._prior[kind]) / (trials + PRIOR_TRIALS)
        self.rates[kind] = min(MAX_RATE, rate)
