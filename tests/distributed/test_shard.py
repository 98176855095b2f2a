"""Who has which part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.distributed.shard import Shard, allowed_sizes
from headrace.weights import Slice


@given(st.integers(1, 16), st.integers(1, 300))
def test_shares_cover_everything_once(size: int, units: int) -> None:
    shares = [Shard(rank, size).shared_slice(units) for rank in range(size)]
    assert all(len(share) for share in shares)
    if units >= size:
        assert [i for s in shares for i in range(s.start, s.stop)] == list(range(units))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    else:
        assert {i for s in shares for i in range(s.start, s.stop)} == set(range(units))


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_query_heads_stay_with_their_key_value_head(kv_heads: int, group: int, size: int) -> None:
    heads = kv_heads * group
    if size not in allowed_sizes(heads, kv_heads, 4096):
        return
    for rank in range(size):
        shard = Shard(rank, size)
        queries, keys = shard.slice(heads), shard.shared_slice(kv_heads)
        local_group = len(queries) // len(keys)
        for local, head in enumerate(range(queries.start, queries.stop)):
            assert keys.start + local // local_group == head // group


def test_smollm2_can_be_split_by_three_and_nine() -> None:
    assert allowed_sizes(9, 3, 1536) == [1, 3, 9]


@pytest.mark.parametrize(("size", "expected"), [(9, slice(3, 6)), (36, slice(12, 24))])
def test_a_share_scales(size: int, expected: slice) -> None:
    assert Slice(1, 2, 3).of(size) == expected
    with pytest.raises(ValueError, match="no share"):
        Slice(1, 2, 3).of(size + 1)
