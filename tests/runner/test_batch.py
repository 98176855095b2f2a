"""Against a plain loop over rows and tokens."""

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.runner.batch import BatchBuffers
from headrace.types import SamplingParams, StepPlan
from tests.runner.rows import CPU, row_start

BLOCK_SIZE, MAX_ROWS, MAX_BLOCKS = 4, 5, 8


@settings(max_examples=50)
@given(st.integers(0, 2**32))
def test_batches_equal_those_of_a_plain_loop(seed: int) -> None:
    generator = random.Random(seed)
    buffers = BatchBuffers(200, MAX_ROWS, MAX_BLOCKS, BLOCK_SIZE, CPU)
    tables: dict[int, list[int]] = {}
    lengths: dict[int, int] = {}
    rows: list[int] = []
    for _ in range(10):
        if not rows or generator.random() < 0.5:  # mostly, steps have the rows of the last
            rows = generator.sample(range(MAX_ROWS), generator.randint(1, MAX_ROWS))
        plan = random_plan(generator, rows, tables, lengths)
        step = buffers.fill(plan)
        batch = step.attention
        positions = [s + i for s, c in zip(plan.starts, plan.counts, strict=True) for i in range(c)]
        owners = [row for row, c in zip(plan.rows, plan.counts, strict=True) for _ in range(c)]
        slots = [
            tables[row][position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
            for row, position in zip(owners, positions, strict=True)
        ]
        assert step.token_ids.tolist() == plan.token_ids
        assert batch.positions.tolist() == positions
        assert batch.slot_mapping.tolist() == slots
        assert batch.query_start.tolist() == [0, *step.query_end.tolist()]
        assert batch.query_start.diff().tolist() == plan.counts
        assert batch.context_lens.tolist() == [lengths[row] for row in plan.rows]
        assert batch.max_query_len == max(plan.counts)
        assert batch.max_context_len == max(lengths[row] for row in plan.rows)
        assert batch.block_table.shape[1] == -(-batch.max_context_len // BLOCK_SIZE)
        for ids, row in zip(batch.block_table.tolist(), plan.rows, strict=True):
            assert ids[: -(-lengths[row] // BLOCK_SIZE)] == tables[row]
        ends = zip(step.query_end.tolist(), plan.num_samples, strict=True)
        index = [i for end, count in ends for i in range(end - count, end)]
        if batch.sampled is None:
            assert len(index) == len(plan.token_ids)
        else:
            assert batch.sampled.index.tolist() == index
            assert batch.sampled.query_start.diff().tolist() == plan.num_samples
        assert batch.block_table.is_contiguous() and batch.slot_mapping.dtype == torch.int64


def random_plan(
    generator: random.Random,
    rows: list[int],
    tables: dict[int, list[int]],
    lengths: dict[int, int],
) -> StepPlan:
    plan = StepPlan(
        ended=[], started=[], rows=[], starts=[], counts=[], token_ids=[], new_blocks=[],
        num_samples=[],
    )  # fmt: skip
    only_decodes = generator.random() < 0.5
    for row in rows:
        if row not in tables or generator.random() < 0.2 or lengths[row] > 20:
            plan.started.append(row_start(row, SamplingParams(max_tokens=1)))
            tables[row], lengths[row] = [], 0
        count = 1 if only_decodes else generator.randint(1, 12)
        plan.rows.append(row)
        plan.starts.append(lengths[row])
        plan.counts.append(count)
        plan.token_ids += [generator.randrange(1000) for _ in range(count)]
        plan.num_samples.append(1 if only_decodes else generator.randint(0, count))
        lengths[row] += count
        missing = -(-lengths[row] // BLOCK_SIZE) - len(tables[row])
        plan.new_blocks.append([generator.randrange(10_000) for _ in range(missing)])
        tables[row] += plan.new_blocks[-1]
    return plan
