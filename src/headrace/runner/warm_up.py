"""Dummy plans before the first request: they allocate, compile and touch what real ones will.

They go down the executor's one path and leave nothing that matters: blocks are handed out
afterwards and written before they are read, and rows start anew with their first request.
"""

from headrace.types import EngineInfo, RowStart, SamplingParams, StepPlan

CPU_DECODES = 32


def warm_up_plans(info: EngineInfo) -> list[StepPlan]:
    """Prompt chunks that fill a step's budget, then decodes; half of the rows greedy, half
    sampled."""
    chunk = min(info.max_batch_prefill_tokens, info.max_total_tokens)
    num_chunks = min(
        info.max_batch_prefill_tokens // chunk,
        info.num_blocks // -(-chunk // info.block_size),
        info.max_num_seqs,
    )
    num_drafts = min(2, info.max_num_drafts)
    return [
        _plan(num_chunks, chunk, info.block_size, num_prompt_rows=num_chunks),
        _plan(min(_num_decodes(info), info.num_blocks), 1, info.block_size, num_drafts=num_drafts),
    ]


def _num_decodes(info: EngineInfo) -> int:
    """As many as can run; on the CPU, where memory is not reserved but grows with its use, few."""
    return min(info.max_num_seqs, CPU_DECODES) if info.device == "cpu" else info.max_num_seqs


def _plan(
    num_rows: int, count: int, block_size: int, *, num_drafts: int = 0, num_prompt_rows: int = 0
) -> StepPlan:
    rows = list(range(num_rows))
    num_blocks = -(-count // block_size)
    started = [
        RowStart(
            row=row,
            params=SamplingParams(max_tokens=1, temperature=float(row % 2)),
            token_ids=[0] * count,
            num_prompt_tokens=count,
        )
        for row in rows
    ]
    return StepPlan(
        ended=[],
        started=started,
        rows=rows,
        starts=[0] * num_rows,
        counts=[count] * num_rows,
        token_ids=[0] * (num_rows * count),
        new_blocks=[list(range(row * num_blocks, (row + 1) * num_blocks)) for row in rows],
        num_samples=[1] * num_rows,
        num_drafts=dict.fromkeys(rows, num_drafts) if num_drafts else {},
        num_prompt_rows=num_prompt_rows,
    )
