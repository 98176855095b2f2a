from headrace.engine.blocks import chain_digest, root_digest
from headrace.engine.request import Request
from headrace.types import FinishReason
from tests.engine.oracle import make_add


def test_digests_are_made_on_demand_and_chained() -> None:
    request = Request(make_add(1, list(range(10)), cache_salt="s"), 0, 0.0, block_size=4)
    first = chain_digest(root_digest("s"), [0, 1, 2, 3])
    assert request.digest(1) == chain_digest(first, [4, 5, 6, 7])
    assert request.digest(0) == first


def test_append_stops_at_the_token_that_ends_it() -> None:
    request = Request(
        make_add(1, [1, 2], 5, output_ids=[3], stop_token_ids=frozenset({9}), min_tokens=2),
        0,
        0.0,
        block_size=4,
    )
    assert request.append([9, 4]) == 2
    assert request.finish_reason is None
    assert request.append([5, 6, 7]) == 2
    assert request.finish_reason == FinishReason.LENGTH
    assert request.token_ids == [1, 2, 3, 9, 4, 5, 6]


def test_timings_add_up() -> None:
    request = Request(make_add(1, [1]), 0, 10.0, block_size=4)
    request.start_time, request.first_token_time = 11.0, 13.0
    timings = request.timings(20.0)
    assert (timings.queue_time, timings.prefill_time, timings.decode_time) == (1.0, 2.0, 7.0)
