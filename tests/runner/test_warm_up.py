import pytest

from headrace.runner.batch import BatchBuffers
from headrace.runner.executor import ModelExecutor
from headrace.runner.sampler import Sampler
from headrace.runner.warm_up import warm_up_plans
from headrace.types import EngineInfo
from tests.runner.rows import CPU, TWINS
from tests.runner.toy import ToyModel


@pytest.mark.parametrize(
    ("budget", "max_total_tokens", "max_num_seqs", "num_blocks", "sizes"),
    [
        (64, 32, 8, 100, [(2, 32), (8, 1)]),
        (64, 32, 8, 10, [(1, 32), (8, 1)]),
        (16, 32, 8, 8, [(1, 16), (8, 1)]),
        (64, 3, 4, 3, [(3, 3), (3, 1)]),
    ],
)
def test_plans_fill_the_budget_within_the_limits(
    budget: int,
    max_total_tokens: int,
    max_num_seqs: int,
    num_blocks: int,
    sizes: list[tuple[int, int]],
) -> None:
    model = ToyModel(num_blocks)
    info = EngineInfo(
        max_total_tokens=max_total_tokens, max_batch_prefill_tokens=budget,
        max_num_seqs=max_num_seqs, num_blocks=num_blocks, block_size=4, vocab_size=53,
        device="", dtype="", kernels="",
    )  # fmt: skip
    buffers = BatchBuffers(budget + max_num_seqs, max_num_seqs, -(-max_total_tokens // 4), 4, CPU)
    executor = ModelExecutor(model, buffers, Sampler(max_num_seqs, TWINS))
    plans = warm_up_plans(info)
    assert [(len(plan.rows), plan.counts[0]) for plan in plans] == sizes
    for plan in plans:
        blocks = sum(plan.new_blocks, [])
        assert len(set(blocks)) == len(blocks) and max(blocks) < num_blocks
        assert all(len(row.token_ids) == 1 for row in executor.execute(plan).rows)
