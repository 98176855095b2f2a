from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.blocks import chain_digest, root_digest
from headrace.engine.request import Request
from headrace.types import FinishReason
from tests.engine.oracle import make_add


def test_digests_are_made_on_demand_and_chained() -> None:
    request = Request(make_add(1, list(range(10)), cache_salt="s"), 0, 0.0, block_size=4)
    first = chain_digest(root_digest("s"), [0, 1, 2, 3])
    assert request.digest(1) == chain_digest(first, [4, 5, 6, 7])
    assert request.digest(0) == first


@given(
    st.integers(1, 5),
    st.lists(st.integers(0, 1), min_size=1, max_size=20),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.booleans(),
)
def test_blocks_are_shared_if_all_tokens_up_to_their_end_are_of_one_kind_in_both(
    block_size: int, token_ids: list[int], lengths: tuple[int, int], distinguishes: bool
) -> None:
    """The same tokens, with prompts of two lengths."""
    first, second = (
        Request(
            make_add(1, token_ids[:length], 30, output_ids=token_ids[length:]),
            0,
            0.0,
            block_size,
            distinguishes_prompts=distinguishes,
        )
        for length in lengths
    )
    for index in range(len(token_ids) // block_size):
        kinds = [[at < length for at in range((index + 1) * block_size)] for length in lengths]
        is_same = first.digest(index) == second.digest(index)
        assert is_same == (not distinguishes or kinds[0] == kinds[1])


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
