import random

import pytest

from headrace.engine.speculation.acceptance import MAX_RATE, Acceptance


def test_starts_with_the_prior_and_learns_by_kind() -> None:
    acceptance = Acceptance((0.25, 0.5))
    assert (acceptance[0], acceptance[1]) == (0.25, 0.5)
    acceptance.observe(1, 0, is_wrong=True)
    assert acceptance[0] == 0.25
    assert acceptance[1] < 0.5


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_comes_near_the_truth(truth: float) -> None:
    chance = random.Random(0)
    acceptance = Acceptance((0.5,))
    rates = []
    for _ in range(2000):
        length = 0
        while length < 4 and chance.random() < truth:
            length += 1
        acceptance.observe(0, length, is_wrong=length < 4)
        rates.append(acceptance[0])
    assert sum(rates[100:]) / len(rates[100:]) == pytest.approx(truth, abs=0.1)


def test_what_one_request_shows_is_where_the_next_starts() -> None:
    everybody = Acceptance((0.2,))
    first = Acceptance(everybody)
    for _ in range(50):
        first.observe(0, 8, is_wrong=False)
    assert 0.98 < first[0] <= MAX_RATE
    assert Acceptance(everybody)[0] > 0.8
    for _ in range(50):
        first.observe(0, 0, is_wrong=True)
    assert first[0] < 0.05
