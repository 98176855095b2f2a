"""How often drafts are right: measured, by kind of draft, for all requests and for each."""

from collections.abc import Sequence
from typing import Final

Kind = int
"""Index of a rate: drafts of one kind are about equally good."""

MEMORY: Final = 0.9
"""What a trial still weighs when the next one of its kind comes."""
PRIOR_TRIALS: Final = 2.0
"""What the rate of all requests weighs in that of one."""
MAX_RATE: Final = 0.99


class Acceptance:
    """Probability, by kind, that a drafted token is right, given that those before it are.

    An exponentially fading mean of trials over a prior, which is fixed or another `Acceptance`.
    """

    __slots__ = ("_prior", "_right", "_trials")

    def __init__(self, prior: "Sequence[float] | Acceptance") -> None:
        self._prior = prior
        num_kinds = len(prior)
        self._right = [0.0] * num_kinds
        self._trials = [0.0] * num_kinds

    def __len__(self) -> int:
        return len(self._right)

    def __getitem__(self, kind: Kind) -> float:
        right = self._right[kind] + PRIOR_TRIALS * self._prior[kind]
        return min(MAX_RATE, right / (self._trials[kind] + PRIOR_TRIALS))

    def observe(self, kind: Kind, num_right: int, *, is_wrong: bool) -> None:
        """`num_right` tokens of a draft were right, and then (`is_wrong`) one was not."""
        memory: float = MEMORY ** (num_right + is_wrong)
        self._right[kind] = self._right[kind] * memory + num_right
        self._trials[kind] = self._trials[kind] * memory + num_right + is_wrong
        if isinstance(self._prior, Acceptance):
            self._prior.observe(kind, num_right, is_wrong=is_wrong)
