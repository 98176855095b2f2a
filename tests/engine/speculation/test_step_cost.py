import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.speculation.step_cost import (
    MAX_AGE,
    MAX_TOKENS,
    MAX_WAITING,
    REFRESH,
    StepCost,
)


def true_cost(num_tokens: int) -> float:
    return 0.003 + 0.0005 * num_tokens


def test_two_sizes_make_a_line() -> None:
    cost = StepCost()
    cost.observe(1, true_cost(1))
    assert not cost.is_known
    cost.observe(200, true_cost(200))
    assert cost.is_known
    for num_tokens in (1, 8, 100, 200, 400):
        assert cost[num_tokens] == pytest.approx(true_cost(num_tokens), rel=1e-6)
    assert cost[10 * MAX_TOKENS] == cost[MAX_TOKENS]


def test_interruptions_hardly_count() -> None:
    cost, chance = StepCost(), random.Random(1)
    for _ in range(400):
        num_tokens = chance.choice([1, 2, 4, 8, 64])
        is_interrupted = chance.random() < 0.02
        cost.observe(num_tokens, true_cost(num_tokens) * (100 if is_interrupted else 1))
        is_known = cost.is_known
    assert is_known
    for num_tokens in (1, 2, 4, 8, 64):
        assert cost[num_tokens] == pytest.approx(true_cost(num_tokens), rel=0.4)


def test_what_was_not_seen_for_long_gets_another_try() -> None:
    cost = StepCost()
    for num_tokens in (1, 100):
        cost.observe(num_tokens, true_cost(num_tokens))
    for _ in range(32):
        cost.observe(4, 1.0)
    assert cost.is_known and cost[4] > 2 * true_cost(4)
    for _ in range(MAX_AGE):
        cost.observe(1, true_cost(1))
        cost.observe(100, true_cost(100))
    assert cost.is_known
    assert cost[4] == pytest.approx(true_cost(4), rel=0.01)


def test_prompts_say_what_tokens_cost_only_until_somebody_knows_better() -> None:
    """Theirs may be half as dear."""
    cost = StepCost()
    cost.observe(1, true_cost(1))
    cost.observe(301, 0.003 + 0.00025 * 301, has_prompts=True)
    assert cost.is_known and 0.004 < cost[9] < true_cost(9)
    for _ in range(REFRESH):
        cost.observe(70, true_cost(70))
        cost.observe(301, 0.003 + 0.00025 * 301, has_prompts=True)
        cost.observe(9, 0.004, has_prompts=True)
    assert cost.is_known
    for num_tokens in (1, 5, 9, 70):
        assert cost[num_tokens] == pytest.approx(true_cost(num_tokens), rel=0.05)


@pytest.mark.parametrize("slower", [2.0, 0.5])
def test_a_machine_that_others_use_slows_all_steps_alike(slower: float) -> None:
    """The load follows within some steps, from sizes that come, for those that do not."""
    cost = StepCost()
    for _ in range(50):
        for num_tokens in (1, 4, 16, 64):
            cost.observe(num_tokens, true_cost(num_tokens))
    assert cost.is_known and cost.load == pytest.approx(1.0, rel=0.01)
    shape = [cost.relative(num_tokens) for num_tokens in (1, 16, 64)]
    for _ in range(40):
        cost.observe(4, slower * true_cost(4))
    assert cost.is_known
    assert cost[64] == pytest.approx(slower * true_cost(64), rel=0.3)
    assert [cost.relative(num_tokens) for num_tokens in (1, 16, 64)] == pytest.approx(shape)


def test_nobody_pays_for_measurements_that_nobody_reads() -> None:
    cost = StepCost()
    for num_tokens in (1, 100):
        cost.observe(num_tokens, true_cost(num_tokens))
    assert cost.is_known and cost[1] == pytest.approx(true_cost(1))
    for _ in range(10 * MAX_WAITING):
        cost.observe(1, 2 * true_cost(1))
    assert len(cost._waiting) == MAX_WAITING
    assert cost.is_known and cost[1] == pytest.approx(2 * true_cost(1), rel=0.1)


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(1e-5, 10)), min_size=1, max_size=60))
def test_more_tokens_never_take_less(steps: list[tuple[int, float]]) -> None:
    cost = StepCost()
    for num_tokens, duration in steps:
        cost.observe(num_tokens, duration)
    if cost.is_known:
        curve = [cost[num_tokens] for num_tokens in range(MAX_TOKENS + 1)]
        assert all(less <= more * (1 + 1e-12) for less, more in pairwise(curve))
        assert all(duration > 0 for duration in curve[1:])
