"""Drafters on two ranks: each rank drafts by itself, and all come to the same drafts."""

from pathlib import Path

import pytest

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import Settings
from headrace.distributed.ranks import Ranks
from headrace.errors import StartupError
from headrace.runner.build import build_executor
from headrace.types import RowOutput, SamplingParams, StepPlan
from tests.distributed.rank_group import RankGroup
from tests.runner.drafting.drafters import make_drafter, make_medusa, make_model
from tests.runner.rows import row_start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROMPT = [3, 14, 15, 92, 65, 35]


def draft(ranks: Ranks, base: Path, drafter: Path | None, num_steps: int) -> list[RowOutput]:
    settings = Settings(
        device="cpu", cpu_threads=2, max_batch_size=4, max_batch_total_tokens=256,
        draft_model_id=None if drafter else "self",
    )  # fmt: skip
    checkpoint = open_checkpoint(base)
    executor, _ = build_executor(settings, checkpoint, lambda *_: None, ranks, drafter)
    start = row_start(2, SamplingParams(max_tokens=9, temperature=0.9, seed=4), PROMPT, 6)
    tokens, computed, num_drafts = PROMPT, 0, 0
    rows = []
    for step in range(num_steps):
        plan = StepPlan(
            ended=[], started=[] if step else [start], rows=[2], starts=[computed],
            counts=[len(tokens)], token_ids=tokens, new_blocks=[[] if step else [5]],
            num_samples=[1 + num_drafts], num_drafts={0: 3},
        )  # fmt: skip
        (row,) = executor.execute(plan).rows
        rows.append(row)
        computed += len(tokens) - 1 - num_drafts + len(row.token_ids)
        tokens, num_drafts = [row.token_ids[-1], *row.draft_ids], len(row.draft_ids)
    return rows


@pytest.mark.parametrize("kind", ["same model", "self", "medusa", "mlp speculator"])
def test_ranks_agree(tmp_path: Path, two_ranks: RankGroup, kind: str) -> None:
    make_model(tmp_path / "base")
    drafter = make_drafter(kind, tmp_path, tmp_path / "base")
    first, second = two_ranks.run(draft, tmp_path / "base", drafter, 4)
    assert [row.token_ids for row in first] == [row.token_ids for row in second]
    assert [row.draft_ids for row in first] == [row.draft_ids for row in second]
    assert all(len(row.draft_ids) == 3 for row in first)
    if kind == "same model":
        for row, following in zip(first, first[1:], strict=False):
            assert following.token_ids[:3] == row.draft_ids


def test_a_shared_output_matrix_is_refused(tmp_path: Path, two_ranks: RankGroup) -> None:
    make_model(tmp_path / "base")
    make_medusa(tmp_path / "heads", tmp_path / "base", own_outputs=False)
    with pytest.raises(StartupError, match="Medusa heads without output matrices"):
        two_ranks.run(draft, tmp_path / "base", tmp_path / "heads", 1)
