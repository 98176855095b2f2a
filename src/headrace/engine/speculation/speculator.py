"""How many tokens to draft, for whom: as many as are worth their time, down to none.

Weighs the measured acceptance of drafts against the measured cost of longer steps. Knows no blocks
and no plan. Whatever it decides changes when tokens come, never which.
"""

from collections import Counter
from itertools import accumulate, repeat
from operator import mul
from typing import Final, NamedTuple

from headrace.engine.request import Request
from headrace.engine.speculation.acceptance import Acceptance, Kind
from headrace.engine.speculation.ngram_index import NgramIndex
from headrace.engine.speculation.proposal import Proposer
from headrace.engine.speculation.state import SpeculationState
from headrace.engine.speculation.step_cost import MAX_TOKENS, StepCost
from headrace.types import StepPlan

PRIOR_RATES: Final = (0.15, 0.25, 0.3, 0.4, 0.55, 0.65, 0.75, 0.85)
"""By level of the match, until measured."""
EXECUTOR: Final[Kind] = len(PRIOR_RATES)
EXECUTOR_PRIOR_RATE: Final = 0.6
LEAST_PROBABILITY: Final = 0.1
LEAST_GAIN: Final = 1.03
"""A step must promise so much more tokens per second, before anything is drafted."""
MAX_REQUESTS: Final = 64
"""Drafted for in one step, so that drafting takes a fraction of a millisecond."""
STEPS_BETWEEN_PROBES: Final = 64


class Offer(NamedTuple):
    """A draft for one request."""

    token_ids: list[int]
    kind: Kind
    rate: float
    """Probability that a token is right, given that those before it are."""


NO_OFFER: Final = Offer([], 0, 0.0)


class Speculator:
    """Drafts for the requests that decode.

    `max_num_drafts` is a limit per request and step, `max_executor_drafts` what the executor's own
    drafter can propose (0: there is none).
    """

    def __init__(
        self, proposer: Proposer, max_num_drafts: int, max_executor_drafts: int = 0
    ) -> None:
        self._proposer = proposer
        self._max_num_drafts = max_num_drafts
        self._max_executor_drafts = min(max_num_drafts, max_executor_drafts)
        self._acceptance = Acceptance((*PRIOR_RATES, EXECUTOR_PRIOR_RATE))
        self._cost = StepCost()
        self._num_refusals = 0
        """Steps since the executor was asked for drafts."""

    @property
    def asks_executor(self) -> bool:
        return self._max_executor_drafts > 0

    def observe(self, num_tokens: int, duration: float) -> None:
        """A step of so many tokens took so many seconds."""
        self._cost.observe(num_tokens, duration)

    def finish(self, request: Request) -> None:
        """The request has all its tokens."""
        self._proposer.finish(request)

    # --- drafts for the next step

    def draft(self, requests: list[Request], num_prompt_tokens: int, room: int) -> None:
        """Set `draft_ids` of those for whom it pays.

        The next step has `num_prompt_tokens` beside one token of each request, and room for `room`
        tokens in addition to these last.
        """
        num_base = len(requests) + num_prompt_tokens
        most = min(room - num_prompt_tokens, MAX_TOKENS - num_base)
        if not requests or not self._may_gain(num_base, most):
            return
        offers = [self._offer(request) for request in requests[:MAX_REQUESTS]]
        for index, count in self._allot(offers, num_base, most).items():
            requests[index].draft_ids = offers[index].token_ids[:count]

    def _may_gain(self, num_base: int, most: int) -> bool:
        """Whether even drafts that are all right would pay."""
        if most <= 0 or not self._cost.is_known:
            return False
        least = LEAST_GAIN * num_base / self._cost[num_base]
        return any(
            (num_base + count) / self._cost[num_base + count] > least
            for count in {min(most, 1 << power) for power in range(9)}
        )

    def _offer(self, request: Request) -> Offer:
        """The best draft for a request, and how far it can be trusted."""
        state = request.speculation
        if state is None:
            state = SpeculationState(NgramIndex(request.token_ids), Acceptance(self._acceptance))
            request.speculation = state
        state.judge(request.token_ids)
        most = min(self._max_num_drafts, request.max_length - len(request.token_ids) - 1)
        proposal = self._proposer.propose(request, most) if most > 0 else None
        offer = Offer(*proposal, state.acceptance[proposal.kind]) if proposal else NO_OFFER
        if request.executor_draft_ids:
            drafts, request.executor_draft_ids = request.executor_draft_ids[:most], []
            offer = max(offer, Offer(drafts, EXECUTOR, state.acceptance[EXECUTOR]), key=expected)
        state.observe(offer.token_ids, offer.kind, len(request.token_ids))
        return offer

    def _allot(self, offers: list[Offer], num_base: int, most: int) -> Counter[int]:
        """By index, how much of each draft to verify beside `num_base` tokens, so that the step
        yields the most tokens per second. A drafted token counts with its probability."""
        candidates = sorted(
            (
                (probability, index)
                for index, offer in enumerate(offers)
                for probability in probabilities(offer)
            ),
            reverse=True,
        )[:most]
        num_taken, num_expected = 0, float(num_base)
        best = LEAST_GAIN * num_base / self._cost[num_base]
        for count, (probability, _) in enumerate(candidates, 1):
            num_expected += probability
            rate = num_expected / self._cost[num_base + count]
            if rate > best:
                num_taken, best = count, rate
        return Counter(index for _, index in candidates[:num_taken])

    # --- drafts that the executor makes

    def num_drafts_to_ask(self, plan: StepPlan, rows: list[Request | None]) -> dict[int, int]:
        """`StepPlan.num_drafts`: by index, what each sampled row would be worth in a step of
        single tokens; now and then one token, to measure, if that is nothing."""
        sampled = [index for index, count in enumerate(plan.num_samples) if count]
        if not sampled or not self._cost.is_known:
            return {}
        offers = []
        for index in sampled:
            request = rows[plan.rows[index]]
            acceptance = request.speculation.acceptance if request and request.speculation else None
            rate = (acceptance or self._acceptance)[EXECUTOR]
            offers.append(Offer([0] * self._max_executor_drafts, EXECUTOR, rate))
        counts = self._allot(offers, len(sampled), MAX_TOKENS - len(sampled))
        self._num_refusals = 0 if counts else self._num_refusals + 1
        if self._num_refusals % STEPS_BETWEEN_PROBES:
            return {}
        return {sampled[index]: count for index, count in counts.items()} or dict.fromkeys(
            sampled, 1
        )


def probabilities(offer: Offer) -> list[float]:
    """That each token of the draft is right, as far as it is worth considering."""
    values = list(accumulate(repeat(offer.rate, len(offer.token_ids)), mul))
    return [value for value in values if value > LEAST_PROBABILITY]


def expected(offer: Offer) -> float:
    """How many tokens of the draft are right, on average."""
    return sum(probabilities(offer))
