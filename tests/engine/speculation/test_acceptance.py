import random

import pytest

from headrace.engine.speculation.acceptance import MAX_RATE, Acceptance


def test_starts_with_the_prior_and_learns_by_kind() -> None:
    acceptance = Acceptance((0.25, 0.5))
    assert (acceptance.rates[0], acceptance.rates[1]) == (0.25, 0.5)
    acceptance.observe(1, False)
    assert acceptance.rates[0] == 0.25
    assert acceptance.rates[1] < 0.5


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_comes_near_the_truth(truth: float) -> None:
    chance = random.Random(0)
    acceptance = Acceptance((0.5,))
    rates = []
    for _ in range(2000):
        acceptance.observe(0, chance.random() < truth)
        rates.append(acceptance.rates[0])
    assert sum(rates[100:]) / len(rates[100:]) == pytest.approx(truth, abs=0.1)


def test_what_one_request_shows_is_where_the_next_starts() -> None:
    everybody = Acceptance((0.2,))
    first = Acceptance(everybody)
    for _ in range(50):
        first.observe(0, True)
    assert 0.9 < first.rates[0] <= MAX_RATE
    assert Acceptance(everybody).rates[0] > 0.3
    for _ in range(50):
        first.observe(0, False)
    assert first.rates[0] < 0.1
