"""Several replicas seen as one engine."""

from collections.abc import Sequence

import msgspec

from headrace.types import EngineInfo, EngineStats

DURATIONS = {"step_duration", "schedule_duration", "execute_duration", "update_duration"}


def total_info(infos: Sequence[EngineInfo]) -> EngineInfo:
    """What they can do together; a request runs on one, so its limits are the smallest."""
    first = infos[0]
    if len(infos) == 1:
        return first
    return msgspec.structs.replace(
        first,
        max_total_tokens=min(info.max_total_tokens for info in infos),
        max_num_seqs=sum(info.max_num_seqs for info in infos),
        num_blocks=sum(info.num_blocks for info in infos),
        weight_bytes=sum(info.weight_bytes for info in infos),
        kv_cache_bytes=sum(info.kv_cache_bytes for info in infos),
        device=f"{len(infos)} replicas, each on {first.device}",
    )


def total_stats(stats: Sequence[EngineStats]) -> EngineStats:
    """Counts add up; of durations the longest counts."""
    if len(stats) == 1:
        return stats[0]
    columns = zip(*(msgspec.structs.astuple(one) for one in stats), strict=True)
    names = EngineStats.__struct_fields__
    return EngineStats(
        **{
            name: max(column) if name in DURATIONS else sum(column)
            for name, column in zip(names, columns, strict=True)
        }
    )
