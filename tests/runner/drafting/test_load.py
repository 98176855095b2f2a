"""What --draft-model-id may name, and what it may not."""

from pathlib import Path

import pytest

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import Settings
from headrace.errors import StartupError
from headrace.runner.build import build_executor
from tests.runner.drafting.drafters import executor_with, make_model


def test_a_draft_model_has_a_cache_and_weights_of_its_own(tmp_path: Path) -> None:
    make_model(tmp_path)
    _, alone = executor_with(None, tmp_path, tmp_path)
    _, both = executor_with("same model", tmp_path, tmp_path)
    assert both.num_blocks == alone.num_blocks
    assert both.kv_cache_bytes == 2 * alone.kv_cache_bytes
    assert both.weight_bytes == 2 * alone.weight_bytes
    assert (alone.max_num_drafts, both.max_num_drafts) == (0, 16)


def test_memory_is_shared_with_the_draft_models_cache(tmp_path: Path) -> None:
    make_model(tmp_path)
    _, alone = executor_with(None, tmp_path, tmp_path, max_batch_total_tokens=None,
                             kv_cache_memory=1 << 18)  # fmt: skip
    _, both = executor_with("same model", tmp_path, tmp_path, max_batch_total_tokens=None,
                            kv_cache_memory=1 << 18)  # fmt: skip
    assert both.num_blocks == alone.num_blocks // 2
    assert both.kv_cache_bytes <= 1 << 18


def test_memory_of_the_draft_models_cache_is_prepared_too(tmp_path: Path) -> None:
    make_model(tmp_path)
    pages = []
    for drafter in (None, "same model"):
        executor, _ = executor_with(drafter, tmp_path, tmp_path)
        pages.append(sum(iter(executor.prepare, False)))
    assert pages[1] == 2 * pages[0] > 0


def test_another_vocabulary(tmp_path: Path) -> None:
    make_model(tmp_path / "base")
    make_model(tmp_path / "draft", vocab_size=250)
    settings = Settings(device="cpu", max_batch_total_tokens=256)
    checkpoint = open_checkpoint(tmp_path / "base")
    with pytest.raises(StartupError, match=r"vocabulary has 250 tokens, the model's 260"):
        build_executor(settings, checkpoint, lambda *_: None, drafter=tmp_path / "draft")
