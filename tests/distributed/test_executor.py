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


def generate(
    ranks: Ranks, path: Path, num_steps: int, arithmetic: dict[str, str], *, alone: bool
) -> list[list[RowOutput]]:
    """The second request starts one step after the first."""
    settings = Settings(
        device="cpu", cpu_threads=2, max_batch_size=4, max_batch_total_tokens=256,
        kv_cache_dtype="float32", **arithmetic,
    )  # fmt: skip
    group = OneRank() if alone else ranks
    executor, _ = build_executor(settings, open_checkpoint(path), lambda *_: None, group)
    starts = [row_start(r, PARAMS[r], PROMPTS[r], len(PROMPTS[r])) for r in range(2)]
    tokens, computed = list(PROMPTS), [0, 0]
    steps = []
    for step in range(num_steps):
        rows = range(min(step + 1, 2))
        plan = StepPlan(
            ended=[], started=starts[step : step + 1], rows=list(rows),
            starts=computed[: len(rows)], counts=[len(tokens[r]) for r in rows],
            token_ids=[t for r in rows for t in tokens[r]],
            new_blocks=[[r] if r == step else [] for r in rows], num_samples=[1 for _ in rows],
            masks={1: ODD_TOKENS} if step else {}, num_prompt_rows=int(step < 2),
        )  # fmt: skip
        steps.append(executor.execute(plan).rows)
        for r in rows:
            computed[r] += len(tokens[r])
            tokens[r] = steps[-1][r].token_ids
    return steps


@pytest.mark.parametrize("arithmetic", [{"activations": "float32"}, {"quantize": "int4"}], ids=str)
def test_sampling_grammar_and_logprobs(
    tmp_path: Path, two_ranks: RankGroup, arithmetic: dict[str, str]
) -> None:
    """Exact, and as by default: where there is AMX, prompts in another arithmetic than the rest."""
    make_checkpoint(tmp_path, "Qwen3ForCausalLM", "plain")
    expected, _ = two_ranks.run(generate, tmp_path, 8, arithmetic, alone=True)
    for steps in two_ranks.run(generate, tmp_path, 8, arithmetic, alone=False):
        for rows, wanted_rows in zip(steps, expected, strict=True):
            for row, wanted in zip(rows, wanted_rows, strict=True):
                assert row.token_ids == wanted.token_ids
                assert row.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        assert all(rows[1].token_ids[0] % 2 for rows in steps[1:])
        prompt, wanted_prompt = steps[0][0].prompt_logprobs, expected[0][0].prompt_logprobs
        assert prompt == pytest.approx(wanted_prompt, abs=1e-4)
        first, wanted_first = steps[0][0].top_logprobs, expected[0][0].top_logprobs
        assert [i for i, _ in first[0]] == [i for i, _ in wanted_first[0]]
