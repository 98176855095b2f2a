"""Who has which part."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.distributed.shard import Shard, allowed_sizes


@given(st.integers(1, 16), st.integers(1, 300))
def test_shares_cover_everything_once(size: int, units: int) -> None:
    shares = [Shard(rank, size).shared_slice(units) for rank in range(size)]
    assert all(len(share) for share in shares)
    if units >= size:
        edges = [share.start for share in shares] + [units]
        assert edges[0] == 0 and [share.stop for share in shares] == edges[1:]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    else:
        assert {i for s in shares for i in range(s.start, s.stop)} == set(range(units))


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_query_heads_stay_with_their_key_value_head(kv_heads: int, group: int, size: int) -> None:
    heads = kv_heads * group
    if size not in allowed_sizes(heads, kv_heads):
        return
    for rank in range(size):
        shard = Shard(rank, size)
        queries, keys = shard.slice(heads), shard.shared_slice(kv_heads)
        local_group = len(queries) // len(keys)
        for local, head in enumerate(range(queries.start, queries.stop)):
            assert keys.start + local // local_group == head // group


def test_smollm2_can_be_split_by_three_and_nine() -> None:
    assert allowed_sizes(9, 3) == [1, 3, 9]


@given(st.integers(1, 64), st.integers(1, 500), st.sampled_from([1, 32, 64, 256]))
def test_features_are_shared_in_whole_blocks(size: int, num_blocks: int, block: int) -> None:
    total = num_blocks * block
    if total < size:
        return
    shares = [Shard(rank, size).features(total).of(total) for rank in range(size)]
    edges = [share.start for share in shares] + [total]
    assert edges[0] == 0 and [share.stop for share in shares] == edges[1:]
    if block >= 32 and num_blocks >= size:
        assert all(share.start % 32 == 0 for share in shares)
    if block == 256 and num_blocks >= 4 * size:
        assert all(share.start % 256 == 0 for share in shares)
