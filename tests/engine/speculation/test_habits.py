import random

import pytest

from headrace.engine.speculation.habits import MAX_PLACES, PRIOR, Guess, Habits


def test_a_new_place_tells_nothing_and_a_known_one_what_came_there() -> None:
    habits = Habits()
    assert habits.guess(b"a", []) is None
    habits.observe(b"a", [], 7)
    habits.observe(b"b", [], 8)
    assert habits.guess(b"a", []) == Guess(7, PRIOR)
    assert habits.guess(b"b", []) == Guess(8, PRIOR)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_probabilities_are_how_often_the_last_choice_comes_again(rate: float) -> None:
    habits, chance = Habits(), random.Random(0)
    token_id, right, promised = 0, 0, 0.0
    for _ in range(4000):
        if guess := habits.guess(b"a", []):
            promised += guess.probability
        if chance.random() >= rate:
            token_id += 1
        right += guess is not None and guess.token_id == token_id
        habits.observe(b"a", [], token_id)
    assert promised == pytest.approx(right, rel=0.05)


def test_what_always_comes_becomes_certain_and_a_change_is_believed() -> None:
    habits = Habits()
    for _ in range(30):
        habits.observe(b"a", [], 7)
    guess = habits.guess(b"a", [])
    assert guess is not None
    assert guess.probability > 0.99
    for _ in range(30):
        habits.observe(b"a", [], 8)
    guess = habits.guess(b"a", [])
    assert guess is not None
    assert guess.token_id == 8
    assert guess.probability > 0.99


def test_the_places_are_bounded() -> None:
    habits = Habits()
    for number in range(MAX_PLACES + 1):
        habits.observe(b"%d" % number, [], number)
        habits.observe(b"1", [], 1)
    assert habits.guess(b"0", []) is None
    assert habits.guess(b"1", []) is not None
    assert habits.guess(b"%d" % MAX_PLACES, []) is not None


def test_the_tokens_before_a_place_tell_it_apart_where_they_decide() -> None:
    habits, chance = Habits(), random.Random(0)
    for _ in range(20):
        before_id = chance.choice([1, 2])
        habits.observe(b"a", [chance.randrange(9), before_id], 10 + before_id)
        habits.observe(b"b", [chance.randrange(9), before_id], 20)
    by_last, alone = habits.guess(b"a", [30, 2]), habits.guess(b"b", [30, 31])
    assert by_last is not None
    assert alone is not None
    assert (by_last.token_id, alone.token_id) == (12, 20)
    assert min(by_last.probability, alone.probability) > 0.9
    unsure = habits.guess(b"a", [30, 31])
    assert unsure is not None
    assert unsure.probability < 0.8
