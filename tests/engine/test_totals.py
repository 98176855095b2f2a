import msgspec

from headrace.engine.totals import total_info, total_stats
from headrace.types import EngineInfo, EngineStats

INFO = EngineInfo(
    max_total_tokens=100,
    max_batch_prefill_tokens=64,
    max_num_seqs=8,
    num_blocks=30,
    block_size=16,
    vocab_size=1000,
    device="cpu",
    dtype="float32",
    kernels="none",
    weight_bytes=7,
    kv_cache_bytes=11,
)


def test_what_replicas_can_do_adds_up_but_not_for_one_request() -> None:
    small = msgspec.structs.replace(INFO, max_total_tokens=90, num_blocks=20)
    total = total_info([INFO, small])
    assert (total.max_total_tokens, total.num_blocks, total.max_num_seqs) == (90, 50, 16)
    assert (total.weight_bytes, total.kv_cache_bytes) == (14, 22)
    assert (total.block_size, total.max_batch_prefill_tokens) == (16, 64)
    assert "2 replicas" in total.device


def test_counts_add_up_and_durations_do_not() -> None:
    one = EngineStats(num_running=1, prefix_cache_hits=5, step_duration=0.5)
    other = EngineStats(num_running=2, num_waiting=3, step_duration=0.25)
    expected = EngineStats(num_running=3, num_waiting=3, prefix_cache_hits=5, step_duration=0.5)
    assert total_stats([one, other]) == expected


def test_one_replica_is_itself() -> None:
    stats = EngineStats()
    assert total_info([INFO]) is INFO
    assert total_stats([stats]) is stats
