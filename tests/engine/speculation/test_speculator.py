"""The controller against a made-up device: a proposer that is right at a known rate, and steps
that take a known time."""

import random
from collections.abc import Callable

import pytest

from headrace.engine.request import Request
from headrace.engine.speculation.prompt_lookup import PromptLookup
from headrace.engine.speculation.proposal import Proposal
from headrace.engine.speculation.speculator import STEPS_BETWEEN_PROBES, Speculator
from headrace.engine.speculation.state import MAX_INTERVAL
from headrace.types import StepPlan
from tests.engine.harness import Engine
from tests.engine.oracle import make_add

SIZE = 24
CHEAP: Callable[[int], float] = lambda n: 0.010 + 0.0001 * n  # noqa: E731
LINEAR: Callable[[int], float] = lambda n: 0.001 * n  # noqa: E731
CPU: Callable[[int], float] = lambda n: 0.003 + 0.0006 * n  # noqa: E731


class Guesser:
    """A `Proposer`; the truth is 0 for ever, and a guess is right with probability `rate`."""

    prior_rates = (0.4,)

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.chance = random.Random(0)

    def propose(self, request: Request, num_tokens: int) -> Proposal | None:
        draft = [int(self.chance.random() >= self.rate) for _ in range(num_tokens)]
        return Proposal(draft, [0] * num_tokens)

    def finish(self, request: Request) -> None: ...


def requests(count: int, max_tokens: int = 10**6) -> list[Request]:
    return [Request(make_add(i, [1], max_tokens), i, 0.0, 4) for i in range(count)]


def run(
    rate: float, duration: Callable[[int], float], num_requests: int = 1, num_steps: int = 600
) -> tuple[float, float]:
    """Mean drafts per request and step, and tokens per second as a multiple of no speculation;
    of the second half."""
    speculator = Speculator(Guesser(rate), SIZE)
    running = requests(num_requests)
    speculator.observe(200, duration(200))
    drafted = tokens = 0
    elapsed = 0.0
    for step in range(num_steps):
        num_tokens = num_requests + sum(len(request.draft_ids) for request in running)
        speculator.observe(num_tokens, duration(num_tokens))
        if step >= num_steps // 2:
            drafted += num_tokens - num_requests
            elapsed += duration(num_tokens)
        for request in running:
            right = (request.draft_ids + [1]).index(1)
            request.token_ids += [0] * (right + 1)
            tokens += (right + 1) * (step >= num_steps // 2)
            request.draft_ids = []
        speculator.draft(running, 0, 512 - num_requests)
    plain = num_requests / duration(num_requests)
    return drafted / num_requests / (num_steps / 2), tokens / elapsed / plain


def test_good_drafts_are_long_where_tokens_are_cheap() -> None:
    length, gain = run(0.97, CHEAP)
    assert length > 0.8 * SIZE
    assert gain > 8


def test_bad_drafts_are_not_made_and_cost_nothing() -> None:
    for rate in (0.0, 0.05):
        length, gain = run(rate, CPU)
        assert length < 0.05
        assert gain > 0.97


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("duration", [CHEAP, CPU, LINEAR])
@pytest.mark.parametrize("num_requests", [1, 8])
def test_it_never_makes_slower(
    rate: float, duration: Callable[[int], float], num_requests: int
) -> None:
    _, gain = run(rate, duration, num_requests)
    assert gain > 0.97


def test_nothing_is_drafted_where_tokens_cost_their_full_price() -> None:
    assert run(0.99, LINEAR, num_requests=4)[0] == 0


def test_it_wakes_up_when_drafts_become_good() -> None:
    guesser = Guesser(0.0)
    speculator = Speculator(guesser, SIZE)
    (request,) = requests(1)
    for num_tokens in (1, 100):
        speculator.observe(num_tokens, CPU(num_tokens))
    for step in range(100):
        guesser.rate = float(step >= 60)
        speculator.draft([request], 0, 500)
        is_learning = step < 5 or 60 <= step <= 60 + 2 * MAX_INTERVAL
        assert bool(request.draft_ids) == (step >= 60) or is_learning
        request.token_ids.append(0)
        request.draft_ids = []


class CountingLookup(PromptLookup):
    """Counts how often it is asked."""

    num_looks = 0

    def propose(self, request: Request, num_tokens: int) -> Proposal | None:
        self.num_looks += 1
        return super().propose(request, num_tokens)


@pytest.mark.parametrize("num_requests", [1, 8])
@pytest.mark.parametrize("vocab_size", [50, 5000])
def test_random_text_is_hardly_looked_at(num_requests: int, vocab_size: int) -> None:
    """Whether its last tokens always occurred before or never: a look in eight tokens, a wasted
    position in a hundred, and the first ones, which tell that there is nothing to be had."""
    proposer = CountingLookup()
    engine = Engine(
        num_blocks=1024, vocab_size=vocab_size, duration=CPU, speculator=Speculator(proposer, SIZE)
    )
    chance = random.Random(0)
    for i in range(num_requests):
        prompt_ids = [chance.randrange(vocab_size) for _ in range(60)]
        engine.add(make_add(i, prompt_ids, max_tokens=400))
    engine.run()
    num_tokens = 400 * num_requests
    assert proposer.num_looks < num_tokens / 8 + 20 * num_requests
    assert engine.scheduler.stats().num_draft_tokens < num_tokens / 100 + 5


def test_all_requests_get_their_rare_looks_in_the_same_steps() -> None:
    proposer = CountingLookup()
    speculator = Speculator(proposer, SIZE)
    for num_tokens in (1, 100):
        speculator.observe(num_tokens, CPU(num_tokens))
    running, looks = requests(8), []
    for step in range(200):
        before = proposer.num_looks
        speculator.draft(running[: 1 + step // 10], 0, 500)
        looks.append(proposer.num_looks - before)
        for request in running:
            request.token_ids.append(100 + len(request.token_ids))
    assert [step % MAX_INTERVAL for step, count in enumerate(looks[-50:]) if count] == [
        step % MAX_INTERVAL for step in range(50) if (150 + step + 1) % MAX_INTERVAL == 0
    ]
    assert set(looks[-50:]) == {0, 8}


def test_nothing_is_drafted_beyond_the_last_token_or_the_room() -> None:
    speculator = Speculator(Guesser(1.0), SIZE)
    for num_tokens in (1, 100):
        speculator.observe(num_tokens, CHEAP(num_tokens))
    few, one, many = requests(1, 5)[0], requests(1, 1)[0], requests(1)[0]
    for _ in range(3):
        speculator.draft([few, one, many], 0, 10)
    assert len(few.draft_ids) <= 4
    assert one.draft_ids == []
    assert 0 < len(few.draft_ids) + len(many.draft_ids) <= 10
    for request in (few, many):
        request.draft_ids = []
    speculator.draft([few, one, many], 10, 10)
    assert few.draft_ids == many.draft_ids == []


def plan_of(num_rows: int) -> StepPlan:
    return StepPlan(
        ended=[], started=[], rows=list(range(num_rows)), starts=[5] * num_rows,
        counts=[1] * num_rows, token_ids=[1] * num_rows, new_blocks=[[]] * num_rows,
        num_samples=[1] * (num_rows - 1) + [0],
    )  # fmt: skip


def test_the_executor_is_asked_for_what_pays_and_else_now_and_then() -> None:
    cheap, dear = (Speculator(Guesser(0.0), SIZE, max_executor_drafts=4) for _ in range(2))
    for num_tokens in (1, 100):
        cheap.observe(num_tokens, CHEAP(num_tokens))
        dear.observe(num_tokens, LINEAR(num_tokens))
    rows = [*requests(3)]
    assert cheap.num_drafts_to_ask(plan_of(3), rows) == {0: 4, 1: 4}
    asked = [dear.num_drafts_to_ask(plan_of(3), rows) for _ in range(STEPS_BETWEEN_PROBES)]
    assert asked == [{}] * (STEPS_BETWEEN_PROBES - 1) + [{0: 1, 1: 1}]


def test_what_drafting_takes_decides_how_much_is_asked_for() -> None:
    asked = []
    for seconds in (0.0, 0.002, 0.005, 0.02):
        speculator = Speculator(Guesser(0.0), SIZE, max_executor_drafts=4)
        for num_tokens in (1, 100):
            speculator.observe(num_tokens, CHEAP(num_tokens))
        for _ in range(3):
            speculator.observe_drafting({0: 2, 1: 2}, 2 * seconds)
        asked.append(speculator.num_drafts_to_ask(plan_of(2), [*requests(2)]).get(0, 0))
    assert asked[0] == 4
    assert asked == sorted(asked, reverse=True)
    assert asked[3] == 0


def test_the_executor_is_not_asked_while_a_proposal_is_verified() -> None:
    speculator = Speculator(Guesser(1.0), SIZE, max_executor_drafts=4)
    for num_tokens in (1, 100):
        speculator.observe(num_tokens, CHEAP(num_tokens))
    running = requests(2)
    speculator.draft(running, 0, 500)
    plan = plan_of(3)
    plan.num_samples = [4, 1, 0]
    assert list(speculator.num_drafts_to_ask(plan, [*running])) == [1]


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("seconds", [0.0005, 0.004, 0.02])
def test_an_executor_that_drafts_never_costs_much(rate: float, seconds: float) -> None:
    """One request; a drafted token takes so many seconds and is right so often."""
    speculator = Speculator(Guesser(0.0), SIZE, max_executor_drafts=16)
    chance = random.Random(1)
    (request,) = requests(1)
    speculator.observe(200, CPU(200))
    tokens, elapsed = 0, 0.0
    for step in range(1500):
        num_tokens = 1 + len(request.draft_ids)
        plan = plan_of(2)
        plan.num_samples[0] = num_tokens
        asked = speculator.num_drafts_to_ask(plan, [request]).get(0, 0)
        speculator.observe(num_tokens, CPU(num_tokens))
        if asked:
            speculator.observe_drafting({0: asked}, asked * seconds)
        right = (request.draft_ids + [1]).index(1)
        request.token_ids += [0] * (right + 1)
        request.executor_draft_ids = [int(chance.random() >= rate) for _ in range(asked)]
        request.draft_ids = []
        speculator.draft([request], 0, 511)
        if step >= 500:
            tokens += right + 1
            elapsed += CPU(num_tokens) + asked * seconds
    gain = tokens / elapsed * CPU(1)
    assert gain > 0.99 - seconds / CPU(1) / STEPS_BETWEEN_PROBES
    if rate > 0.9 and seconds < 0.001:
        assert gain > 2


def test_the_executors_drafts_are_used_when_they_promise_more() -> None:
    speculator = Speculator(Guesser(0.0), SIZE, max_executor_drafts=4)
    (request,) = requests(1)
    for num_tokens in (1, 100):
        speculator.observe(num_tokens, CHEAP(num_tokens))
    for _ in range(20):  # the proposer turns out to be bad
        speculator.draft([request], 0, 500)
        request.token_ids.append(0)
        request.draft_ids = []
    request.executor_draft_ids = [0, 0, 0]
    speculator.observe_drafting({0: 3}, 0.0)
    speculator.draft([request], 0, 500)
    assert request.draft_ids == [0, 0, 0]
    assert request.executor_draft_ids == []
