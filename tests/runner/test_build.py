"""A tiny checkpoint on disk, built and run, against transformers' own generation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import Settings
from headrace.kernels import load as load_kernels
from headrace.kernels.dispatch import native_modules
from headrace.runner.build import build_executor
from headrace.types import SamplingParams, StepPlan
from tests.runner.rows import row_start

PROMPT = [3, 14, 15, 92, 65, 35]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
        )
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return folder, model


def test_an_executor_built_from_disk_generates_what_transformers_does(
    reference: tuple[Path, LlamaForCausalLM],
) -> None:
    folder, model = reference
    stages: list[str] = []
    settings = Settings(device="cpu", cpu_threads=1, max_batch_size=4, max_batch_total_tokens=70)
    executor, info = build_executor(
        settings, open_checkpoint(folder), lambda stage, done, total: stages.append(stage)
    )
    assert {"load weights", "warm up"} == set(stages)
    assert info.num_blocks == -(-70 // info.block_size)
    assert info.max_total_tokens == min(96, info.num_blocks * info.block_size)
    assert (info.max_batch_prefill_tokens, info.max_num_seqs, info.vocab_size) == (512, 4, 128)
    expected = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )[0].tolist()  # fmt: skip
    params = SamplingParams(max_tokens=12, temperature=0)
    token_ids, computed, num_blocks = list(PROMPT), 0, 0
    while len(token_ids) < len(expected):
        needed = -(-len(token_ids) // info.block_size)
        plan = StepPlan(
            ended=[], started=[row_start(2, params, PROMPT, 6)] if not computed else [], rows=[2],
            starts=[computed], counts=[len(token_ids) - computed], token_ids=token_ids[computed:],
            new_blocks=[list(range(num_blocks, needed))], num_samples=[1],
        )  # fmt: skip
        computed, num_blocks = len(token_ids), needed
        token_ids += executor.execute(plan).rows[0].token_ids
    assert token_ids == expected


def test_plain_torch_says_why(reference: tuple[Path, LlamaForCausalLM]) -> None:
    settings = Settings(device="cpu", kernels="torch", cpu_threads=1, max_batch_total_tokens=96)
    _, info = build_executor(settings, open_checkpoint(reference[0]), lambda *_: None)
    assert info.kernels == "plain torch: asked for"


@pytest.mark.skipif(not list(native_modules()), reason="no compiled kernels on this machine")
def test_a_model_beyond_the_kernels_gets_all_threads(
    reference: tuple[Path, LlamaForCausalLM],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The fallback is told, and torch is not left with one thread beside idle kernels."""
    checkpoint = open_checkpoint(reference[0])
    beyond = replace(checkpoint, config={**checkpoint.config, "intermediate_size": 100})
    threads = torch.get_num_threads()
    try:
        settings = Settings(
            device="cpu", cpu_threads=3, max_batch_total_tokens=96, load_format="dummy"
        )
        _, info = build_executor(settings, beyond, lambda *_: None)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
        load_kernels().set_num_threads(1)
    assert "intermediate size 100" in caplog.text
    assert info.kernels.startswith("plain torch: this model does not run on")
