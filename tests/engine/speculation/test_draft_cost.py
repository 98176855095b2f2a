"""The measured cost of the executor's drafting."""

import pytest

from headrace.engine.speculation.draft_cost import DraftCost


def test_it_is_by_rows_and_in_proportion_to_the_depth() -> None:
    cost = DraftCost()
    assert cost.per_token(3) == 0
    for num_rows in (1, 8):
        for depth in (1, 4, 2):
            cost.observe(num_rows, depth, 0.002 * depth * num_rows)
    assert cost.per_token(1) == cost.per_token(3) == pytest.approx(0.002)
    assert cost.per_token(8) == cost.per_token(100) == pytest.approx(0.016)


def test_the_first_draft_may_have_caught_up_with_a_prompt() -> None:
    cost = DraftCost()
    cost.observe(1, 2, 0.4)
    cost.observe(1, 2, 0.004)
    assert cost.per_token(1) == pytest.approx(0.002)


def test_one_long_draft_does_little() -> None:
    cost = DraftCost()
    for _ in range(5):
        cost.observe(1, 2, 0.004)
    cost.observe(1, 2, 0.4)
    assert cost.per_token(1) < 0.0025


def test_it_follows_what_stays() -> None:
    cost = DraftCost()
    for seconds in (0.002, 0.006, 0.003):
        for _ in range(40):
            cost.observe(1, 1, seconds)
        assert cost.per_token(1) == pytest.approx(seconds, rel=0.05)
