import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import StartupError
from headrace.runner.memory import CacheRequest, size_cache

REQUEST = CacheRequest(
    block_size=16, bytes_per_block=1600, available=1_600_000, share=0.5, cache_memory=None,
    cache_tokens=None, max_total_tokens=None, max_position_embeddings=2048, max_num_seqs=256,
)  # fmt: skip


def size(**changes: Any) -> tuple[int, int]:
    return dataclasses.astuple(size_cache(dataclasses.replace(REQUEST, **changes)))


def test_a_share_of_what_is_available() -> None:
    assert size() == (500, 2048)


def test_never_more_than_could_be_used() -> None:
    assert size(max_num_seqs=2, max_total_tokens=100) == (2 * 7, 100)
    assert size(max_num_seqs=1, cache_memory=1_500_000) == (128, 2048)


def test_what_is_asked_for() -> None:
    assert size(cache_memory=160_000) == (100, 1600)
    assert size(cache_tokens=1601) == (101, 1616)


def test_the_longest_request_shrinks_unless_it_was_asked_for() -> None:
    assert size(available=64_000) == (20, 320)
    with pytest.raises(StartupError, match=r"room for 320 tokens.*321.*lower --max-total-tokens"):
        size(available=64_000, max_total_tokens=321)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache_memory": 2_000_000}, "--kv-cache-memory 2000000 needs 2 MiB.*lower it"),
        ({"cache_tokens": 20_000}, "--max-batch-total-tokens 20000 needs 2 MiB.*lower it"),
        ({"max_total_tokens": 4096}, "--max-total-tokens 4096 is more than the 2048 positions"),
        ({"available": 100}, "room for 0 tokens"),
        ({"cache_memory": 10}, "room for 0 tokens"),
    ],
)
def test_errors_name_what_to_change(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        size(**changes)


@given(
    st.integers(0, 10**6), st.integers(1, 5000), st.integers(1, 300), st.none() | st.integers(1, 99)
)
def test_the_answer_always_holds_one_longest_request(
    available: int, positions: int, num_seqs: int, max_total_tokens: int | None
) -> None:
    try:
        num_blocks, longest = size(
            available=available, max_position_embeddings=positions, max_num_seqs=num_seqs,
            max_total_tokens=max_total_tokens,
        )  # fmt: skip
    except StartupError:
        return
    assert 1 <= longest <= min(positions, num_blocks * 16)
    assert max_total_tokens in (None, longest)
    assert num_blocks * 1600 <= available * 0.5
