"""How many tokens to draft, for whom: as many as are worth their time, down to none.

Weighs the measured acceptance of drafts against the measured cost of longer steps. Knows no blocks
and no plan. Whatever it decides changes when tokens come, never which.
"""

from collections import Counter
from collections.abc import Mapping
from math import log
from typing import Final, NamedTuple

from headrace.engine.request import Request
from headrace.engine.speculation.acceptance import Acceptance, Kind
from headrace.engine.speculation.draft_cost import DraftCost
from headrace.engine.speculation.ngram_index import NgramIndex
from headrace.engine.speculation.proposal import Proposer
from headrace.engine.speculation.state import SpeculationState
from headrace.engine.speculation.step_cost import MAX_TOKENS, StepCost
from headrace.types import StepPlan

EXECUTOR_PRIOR_RATE: Final = 0.6
LEAST_PROBABILITY: Final = 0.1
LEAST_GAIN: Final = 1.08
"""A step must promise so much more tokens per second, before anything is drafted."""
LEAST_GAIN_OF_MANY: Final = 1.15
"""The same of MANY tokens: what promises most of many drafts is likely to promise too much."""
MANY: Final = 8
LEAST_EXECUTOR_GAIN: Final = 1.2
"""More is asked of drafts that take time of their own: they are lost if wrong, and the largest of
several measured gains is likely to be measured too large."""
NUM_PRICED: Final = 16
"""Tokens beyond those of a step, over which their cost is averaged."""
MAX_REQUESTS: Final = 64
"""Drafted for in one step, so that drafting takes a fraction of a millisecond."""
STEPS_BETWEEN_PROBES: Final = 64


class Offer(NamedTuple):
    """A draft for one request."""

    token_ids: list[int]
    kinds: list[Kind]
    """Of the tokens."""
    probabilities: list[float]
    """That a token and all before it are right, as far as that is worth considering."""


NO_OFFER: Final = Offer([], [], [])


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
        self._executor_kind: Kind = len(proposer.prior_rates)
        self._acceptance = Acceptance((*proposer.prior_rates, EXECUTOR_PRIOR_RATE))
        self._cost = StepCost()
        self._draft_cost = DraftCost()
        self._least_probability = 1.0
        """Of a token that is worth its time in the next step."""
        self._num_steps = 0
        self._num_requests = 0
        """In the step before."""
        self._wake_step = 0
        """While there are as many requests, none gets a look before this step."""
        self._num_refusals = 0
        """Steps since the executor was asked for drafts."""

    @property
    def asks_executor(self) -> bool:
        return self._max_executor_drafts > 0

    def observe(self, num_tokens: int, duration: float, *, has_prompts: bool = False) -> None:
        """A step of so many tokens took so many seconds, without what the executor drafted."""
        self._cost.observe(num_tokens, duration, has_prompts=has_prompts)

    def observe_drafting(self, num_drafts: dict[int, int], duration: float) -> None:
        """The executor took so many seconds for `StepPlan.num_drafts`."""
        self._draft_cost.observe(len(num_drafts), max(num_drafts.values()), duration)
        self._wake_step = 0

    def finish(self, request: Request) -> None:
        """The request has all its tokens."""
        self._proposer.finish(request)

    # --- drafts for the next step

    def draft(self, requests: list[Request], num_prompt_tokens: int, room: int) -> None:
        """Set `draft_ids` of those for whom it pays.

        The next step has `num_prompt_tokens` beside one token of each request, and room for `room`
        tokens in addition to these last.
        """
        self._num_steps += 1
        if self._num_steps < self._wake_step and len(requests) == self._num_requests:
            return
        awake = self._awake(requests)
        num_base = len(requests) + num_prompt_tokens
        most = min(room - num_prompt_tokens, MAX_TOKENS - num_base)
        if not awake or not self._may_gain(num_base, most):
            return
        self._least_probability = self._price(num_base)
        offers = [self._offer(request, state) for request, state in awake]
        counts = self._allot(offers, num_base, most) if any(o.token_ids for o in offers) else {}
        for index, (request, state) in enumerate(awake):
            offer, count = offers[index], counts.get(index, 0)
            request.draft_ids = offer.token_ids[:count]
            state.settle(count, offer.probabilities[count - 1] if count else 1.0)
        self._sleep(requests)

    def _awake(self, requests: list[Request]) -> list[tuple[Request, SpeculationState]]:
        """Those that get a look in this step; mostly nobody, where drafts are not worth it."""
        step, awake = self._num_steps, []
        for request in requests:
            state = request.speculation
            if state is None:
                state = SpeculationState(
                    NgramIndex(request.token_ids), Acceptance(self._acceptance)
                )
                request.speculation = state
            if step % state.interval == 0 or request.executor_draft_ids:
                awake.append((request, state))
        return awake[:MAX_REQUESTS]

    def _sleep(self, requests: list[Request]) -> None:
        """Until the next step in which one of them gets a look."""
        states = [request.speculation for request in requests]
        interval = min((state.interval for state in states if state is not None), default=1)
        self._num_requests = len(requests)
        self._wake_step = (self._num_steps // interval + 1) * interval

    def _may_gain(self, num_base: int, most: int) -> bool:
        """Whether even drafts that are all right would pay."""
        if most <= 0 or not self._cost.is_known:
            return False
        relative = self._cost.relative
        least = least_gain(num_base) * num_base / relative(num_base)
        return any(
            (num_base + count) / relative(num_base + count) > least
            for count in (most, 1, 2, 4, 8, 16, 32, 64)
            if count <= most
        )

    def _price(self, num_base: int) -> float:
        """How many tokens could be had in the time that one more takes in a step of so many."""
        base = self._cost.relative(num_base)
        slope = (self._cost.relative(num_base + NUM_PRICED) - base) / NUM_PRICED
        return least_gain(num_base) * slope * num_base / base

    def _offer(self, request: Request, state: SpeculationState) -> Offer:
        """The best draft for a request, and how far it can be trusted."""
        state.judge(request.token_ids)
        most = min(self._max_num_drafts, request.max_length - len(request.token_ids) - 1)
        proposal = self._proposer.propose(request, most) if most > 0 else None
        rates = state.acceptance.rates
        offer = Offer(*proposal, probabilities(proposal.kinds, rates)) if proposal else NO_OFFER
        if request.executor_draft_ids:
            drafts, request.executor_draft_ids = request.executor_draft_ids[:most], []
            kinds = [self._executor_kind] * len(drafts)
            other = Offer(drafts, kinds, probabilities(kinds, rates))
            offer = max(offer, other, key=expected)
        state.observe(offer.token_ids, offer.kinds, len(request.token_ids))
        return offer

    def _allot(self, offers: list[Offer], num_base: int, most: int) -> Mapping[int, int]:
        """By index, how much of each draft to verify beside `num_base` tokens, so that the step
        yields the most tokens per second. A drafted token counts with its probability."""
        candidates = sorted(
            (
                (probability, index)
                for index, offer in enumerate(offers)
                for probability in offer.probabilities
            ),
            reverse=True,
        )[:most]
        relative = self._cost.relative
        num_taken, num_expected = 0, float(num_base)
        best = least_gain(num_base) * num_base / relative(num_base)
        for count, (probability, _) in enumerate(candidates, 1):
            num_expected += probability
            pace = num_expected / relative(num_base + count)
            if pace > best:
                num_taken, best = count, pace
        return Counter(index for _, index in candidates[:num_taken])

    def least_probability(self, request: Request) -> float:
        """Of a token behind the request's `draft_ids`, if they are right, that is worth its
        time."""
        state = request.speculation
        return self._least_probability / state.confidence if state else 1.0

    # --- drafts that the executor makes

    def num_drafts_to_ask(self, plan: StepPlan, rows: list[Request | None]) -> dict[int, int]:
        """`StepPlan.num_drafts`: by index, what pays for each sampled row, if the next step was
        one of single tokens otherwise; now and then one token, to measure, if that is nothing."""
        sampled = [index for index, count in enumerate(plan.num_samples) if count]
        if not self._cost.is_known:
            return {}
        rates = {
            index: rate
            for index in sampled
            if (rate := self._rate_to_ask(plan, index, rows)) is not None
        }
        depth = self._depth_to_ask(list(rates.values()), len(sampled)) if rates else 0
        counts = {index: count for index, rate in rates.items() if (count := reach(rate, depth))}
        self._num_refusals = 0 if counts else self._num_refusals + 1
        if self._num_refusals % STEPS_BETWEEN_PROBES:
            return {}
        return counts or dict.fromkeys(sampled, 1)

    def _rate_to_ask(self, plan: StepPlan, index: int, rows: list[Request | None]) -> float | None:
        """How far the executor's drafts for a row can be trusted; None while a draft of somebody
        else is verified, who may well go on."""
        request = rows[plan.rows[index]]
        state = request.speculation if request else None
        if state is None:
            return self._acceptance.rates[self._executor_kind]
        if plan.num_samples[index] > 1 and state.kinds[0] != self._executor_kind:
            return None
        return state.acceptance.rates[self._executor_kind]

    def _depth_to_ask(self, rates: list[float], num_base: int) -> int:
        """How many tokens to draft for rows of these rates, so that drafting, and verifying them
        beside `num_base` tokens, yields the most tokens per second."""
        best, best_depth = LEAST_EXECUTOR_GAIN * num_base / self._cost[num_base], 0
        num_tokens, num_expected = num_base, float(num_base)
        per_token = self._draft_cost.per_token(len(rates))
        for depth in range(1, self._max_executor_drafts + 1):
            reached = [rate**depth for rate in rates if reach(rate, depth) == depth]
            num_tokens += len(reached)
            num_expected += sum(reached)
            pace = num_expected / (self._cost[num_tokens] + per_token * depth)
            if pace > best:
                best, best_depth = pace, depth
        return best_depth


def least_gain(num_base: int) -> float:
    """Of drafts beside so many tokens."""
    share = min(1.0, (num_base - 1) / (MANY - 1))
    return LEAST_GAIN + share * (LEAST_GAIN_OF_MANY - LEAST_GAIN)


def reach(rate: float, depth: int) -> int:
    """How many of `depth` tokens are probable enough to be considered."""
    return min(depth, int(log(LEAST_PROBABILITY) / log(rate)))


def probabilities(kinds: list[Kind], rates: list[float]) -> list[float]:
    """See `Offer`."""
    values = []
    probability = 1.0
    for kind in kinds:
        probability *= rates[kind]
        if probability < LEAST_PROBABILITY:
            break
        values.append(probability)
    return values


def expected(offer: Offer) -> float:
    """How many tokens of the draft are right, on average."""
    return sum(offer.probabilities)
