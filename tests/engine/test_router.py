import random

from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.router import PREFIX_STEP, STREAM_COST, Route, Router
from tests.engine.oracle import make_add


def prompt(kind: int, length: int, own: int = 0) -> list[int]:
    """`length` tokens that are the same for one kind, and one more."""
    return [1000 * kind + i for i in range(length)] + [own]


def test_equal_beginnings_go_to_one_replica_and_others_elsewhere() -> None:
    router = Router()
    first = router.choose(make_add(1, prompt(1, 512)), range(3))
    router.begin_decode(first)
    second = router.choose(make_add(2, prompt(2, 512)), range(3))
    router.begin_decode(second)
    assert first.replica != second.replica
    for own in range(1, 4):
        route = router.choose(make_add(3, prompt(1, 512, own)), range(3))
        assert route == Route(first.replica, 1)


def test_a_salt_keeps_prefixes_apart() -> None:
    router = Router()
    router.end(router.choose(make_add(1, prompt(1, 512)), [1]))
    assert router.choose(make_add(2, prompt(1, 512), cache_salt="x"), [1]).missing == 513
    assert router.choose(make_add(2, prompt(1, 512)), [1]).missing == 1


def test_a_popular_prefix_spreads_when_its_replica_is_busy() -> None:
    router = Router()
    routes = [router.choose(make_add(i, prompt(1, 512, i)), range(2)) for i in range(64)]
    for route in routes:
        router.begin_decode(route)
    counts = [sum(route.replica == index for route in routes) for index in range(2)]
    assert abs(counts[0] - counts[1]) <= 512 // STREAM_COST + 1
    assert sum(route.missing > 1 for route in routes) <= 2  # each computes it once at most


def test_what_died_is_neither_chosen_nor_remembered() -> None:
    router = Router()
    router.end(router.choose(make_add(1, prompt(1, 512)), [0]))
    router.forget(0)
    assert router.choose(make_add(2, prompt(1, 512)), [0]).missing == 513
    assert router.choose(make_add(3, prompt(1, 512)), [1]).replica == 1


def test_the_beginnings_of_old_prompts_are_forgotten_last() -> None:
    router = Router(capacity=4)
    router.end(router.choose(make_add(1, prompt(1, 6 * PREFIX_STEP)), [1]))
    missing = router.choose(make_add(2, prompt(1, 6 * PREFIX_STEP)), [1]).missing
    assert missing == 2 * PREFIX_STEP + 1


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 5), st.randoms())
def test_loads_return_to_nothing(
    kinds: list[int], num_replicas: int, chance: random.Random
) -> None:
    router = Router(capacity=50)
    routes = []
    for request_id, kind in enumerate(kinds):
        candidates = chance.sample(range(num_replicas), chance.randint(1, num_replicas))
        route = router.choose(make_add(request_id, prompt(kind, 40 * kind)), candidates)
        assert route.replica in candidates
        assert 0 < route.missing <= 40 * kind + 1
        routes.append(route)
        if chance.random() < 0.5:
            router.begin_decode(route)
    for index in range(num_replicas):
        assert router.num_streams(index) == sum(route.replica == index for route in routes)
    for route in routes:
        router.end(route)
    assert all(router.num_streams(index) == 0 for index in range(num_replicas))
    assert router.choose(make_add(0, [1]), range(num_replicas)).replica == 0
