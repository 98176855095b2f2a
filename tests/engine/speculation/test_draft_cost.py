"""The measured cost of the executor's drafting."""

import pytest

from headrace.engine.speculation.draft_cost import DraftCost


def test_it_is_proportional_to_the_depth() -> None:
    cost = DraftCost()
    assert cost[3] == 0
    for depth in (1, 4, 2):
        cost.observe(depth, 0.002 * depth)
    assert cost[5] == pytest.approx(0.010)


def test_one_long_draft_is_soon_forgotten() -> None:
    cost = DraftCost()
    cost.observe(2, 0.4)  # had to catch up with a prompt
    for _ in range(4):
        cost.observe(2, 0.004)
    assert cost[1] < 0.02
    for _ in range(6):
        cost.observe(2, 0.004)
    cost.observe(2, 0.4)
    assert cost[1] < 0.0025


def test_it_follows_what_stays() -> None:
    cost = DraftCost()
    cost.observe(1, 0.002)
    for _ in range(40):
        cost.observe(1, 0.006)
    assert cost[1] == pytest.approx(0.006, rel=0.05)
