"""The seam between the scheduler and whoever drafts tokens.

A draft is a guess at a request's next tokens. It enters a plan as ordinary tokens behind the known
ones, and the sampler's own choices say how much of it was right: drafts change when tokens come,
never which.

There are two sorts of drafters. A `Proposer` works on the host, from token ids. A drafter of the
executor (draft model, heads) is asked for `StepPlan.num_drafts` tokens and answers in
`RowOutput.draft_ids`; `EngineInfo.max_num_drafts` says that there is one.
"""

from typing import NamedTuple, Protocol

from headrace.engine.request import Request
from headrace.engine.speculation.acceptance import Kind


class Proposal(NamedTuple):
    """A draft, and what is known about how good its tokens are."""

    token_ids: list[int]
    kinds: list[Kind]
    """By token, below the proposer's `num_kinds`."""


class Proposer(Protocol):
    """Drafts on the host."""

    prior_rates: tuple[float, ...]
    """By kind, how often its tokens are right, until that is measured."""

    def propose(self, request: Request, num_tokens: int) -> Proposal | None:
        """Guess at most `num_tokens` that follow the request's tokens; None: no idea."""
        ...

    def finish(self, request: Request) -> None:
        """The request is over; its tokens may serve others."""
        ...
