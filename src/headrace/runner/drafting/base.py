"""What a drafter of the executor is: something that predicts, token by token, what follows.

Knows rows, tokens and hidden states. Whether a draft is right shows in a later step; a drafter need
not know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from headrace.types import RowOutput, StepPlan


@dataclass(frozen=True, slots=True)
class Turn:
    """One row that drafts now."""

    index: int
    """Into the plan's rows."""
    row: int
    token_id: int
    """The newest token, which was just sampled: no pass has computed it yet."""
    position: int
    """That the first drafted token will have; the newest token has the one before."""
    state: int
    """Index into the step's sampled positions: what the newest token was sampled from."""
    count: int
    """Tokens to draft."""


class Drafter(Protocol):
    """Predicts the next tokens of rows."""

    max_num_drafts: int
    """Tokens per row and step."""

    def follow(self, plan: StepPlan, outputs: Sequence[RowOutput]) -> None:
        """Hear of every step of the target model, drafted for or not."""
        ...

    def limit(self, turns: Sequence[Turn]) -> list[Turn]:
        """Those it can draft for, with as many drafts as it can."""
        ...

    def begin(self, turns: Sequence[Turn], hidden: Tensor) -> None:
        """Draft for these turns, which come sorted by falling count.

        hidden [R, hidden_size]: what the step's positions were sampled from, before the last norm.
        """
        ...

    def logits(self, token_ids: list[int], depth: int) -> Tensor:
        """[n, V] float32, a fresh tensor: what follows in the first n of the turns begun.

        token_ids [n]: the newest token of each (depth 0), later those that were chosen from the
        logits of the depth before.
        """
        ...
