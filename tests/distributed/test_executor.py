"""What single requests ask for, on two ranks as on one: the whole executor, sampling included."""

from pathlib import Path

import numpy as np
import pytest

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import Settings
from headrace.distributed.ranks import OneRank, Ranks
from headrace.runner.build import build_executor
from headrace.types import RowOutput, SamplingParams, StepPlan
from tests.distributed.rank_group import RankGroup
from tests.models.checkpoints import make_checkpoint
from tests.runner.rows import row_start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROMPTS = [[3, 14, 15, 92, 65, 35], [8, 9, 7, 9, 3, 2, 3, 8, 4]]
PARAMS = [
    SamplingParams(max_tokens=8, temperature=0, num_top_logprobs=3, prompt_logprobs=True),
    SamplingParams(
        max_tokens=8, temperature=0.8, seed=7, top_p=0.9, top_k=50, repetition_penalty=1.2,
        frequency_penalty=0.3, logit_bias={17: 2.0}, num_top_logprobs=0,
    ),
]  # fmt: skip
ODD_TOKENS = np.packbits(np.arange(224) % 2, bitorder="little").tobytes()
"""A grammar's mask over 199 tokens, in words of 32."""


def generate(ranks: Ranks, path: Path, num_steps: int, *, alone: bool) -> list[list[RowOutput]]:
    settings = Settings(
        device="cpu", cpu_threads=2, max_batch_size=4, max_batch_total_tokens=256,
        activations="float32", kv_cache_dtype="float32",
    )  # fmt: skip
    group = OneRank() if alone else ranks
    executor, _ = build_executor(settings, open_checkpoint(path), lambda *_: None, group)
    starts = [row_start(r, PARAMS[r], PROMPTS[r], len(PROMPTS[r])) for r in range(2)]
    tokens, computed = PROMPTS, [0, 0]
    steps = []
    for step in range(num_steps):
        plan = StepPlan(
            ended=[], started=[] if step else starts, rows=[0, 1], starts=computed,
            counts=[len(new) for new in tokens], token_ids=[t for new in tokens for t in new],
            new_blocks=[[], []] if step else [[0], [1]], num_samples=[1, 1],
            masks={1: ODD_TOKENS},
        )  # fmt: skip
        steps.append(executor.execute(plan).rows)
        computed = [old + len(new) for old, new in zip(computed, tokens, strict=True)]
        tokens = [row.token_ids for row in steps[-1]]
    return steps


def test_sampling_grammar_and_logprobs(tmp_path: Path, two_ranks: RankGroup) -> None:
    make_checkpoint(tmp_path, "Qwen3ForCausalLM", "plain")
    expected, _ = two_ranks.run(generate, tmp_path, 8, alone=True)
    for steps in two_ranks.run(generate, tmp_path, 8, alone=False):
        for rows, wanted_rows in zip(steps, expected, strict=True):
            for row, wanted in zip(rows, wanted_rows, strict=True):
                assert row.token_ids == wanted.token_ids
                assert row.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        assert all(rows[1].token_ids[0] % 2 for rows in steps)
        prompt, wanted_prompt = steps[0][0].prompt_logprobs, expected[0][0].prompt_logprobs
        assert prompt == pytest.approx(wanted_prompt, abs=1e-4)
        first, wanted_first = steps[0][0].top_logprobs, expected[0][0].top_logprobs
        assert [i for i, _ in first[0]] == [i for i, _ in wanted_first[0]]
