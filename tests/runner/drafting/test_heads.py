"""Heads' drafts against their published formulas over transformers' hidden states."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import Settings
from headrace.errors import StartupError
from headrace.runner.build import build_executor
from headrace.types import SamplingParams, StepPlan
from tests.runner.drafting.drafters import (
    HIDDEN_SIZE,
    INNER_SIZE,
    NUM_HEADS,
    make_medusa,
    make_mlp_speculator,
    make_model,
)
from tests.runner.rows import row_start

PROMPT = [3, 14, 15, 92, 65, 35]
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("base")
    return folder, make_model(folder)


def drafts_of(base: Path, heads: Path, kernels: str) -> tuple[int, list[int]]:
    """The first token behind the prompt, and what is drafted behind that, both greedy."""
    settings = Settings(device="cpu", cpu_threads=1, max_batch_size=4, max_batch_total_tokens=128,
                        kernels=kernels)  # type: ignore[arg-type] # fmt: skip
    executor, info = build_executor(settings, open_checkpoint(base), lambda *_: None, drafter=heads)
    assert info.max_num_drafts == NUM_HEADS
    plan = StepPlan(
        ended=[], started=[row_start(1, SamplingParams(max_tokens=9, temperature=0), PROMPT, 6)],
        rows=[1], starts=[0], counts=[6], token_ids=PROMPT, new_blocks=[[0]], num_samples=[1],
        num_drafts={0: 9},
    )  # fmt: skip
    (row,) = executor.execute(plan).rows
    return row.token_ids[0], row.draft_ids


def last_state(model: Any) -> tuple[Tensor, int]:
    """The normalised state behind the prompt, and the model's own next token."""
    with torch.inference_mode():
        result = model(torch.tensor([PROMPT]), output_hidden_states=True)
    return result.hidden_states[-1][0, -1], int(result.logits[0, -1].argmax())


def medusa_formula(tensors: Tensors, model: Any, *, own_outputs: bool) -> list[int]:
    state, _ = last_state(model)
    drafts = []
    for head in range(NUM_HEADS):
        x = state
        for block in range(2):
            weight, bias = (tensors[f"{head}.{block}.linear.{n}"] for n in ("weight", "bias"))
            y = weight @ x + bias
            x = x + y * torch.sigmoid(y)
        output = tensors[f"{head}.2.weight"] if own_outputs else model.lm_head.weight
        drafts.append(int((output @ x).argmax()))
    return drafts


def mlp_formula(tensors: Tensors, model: Any, *, tied: bool, scale_input: bool) -> list[int]:
    state, token = last_state(model)
    if scale_input:
        state = state / (state.square().mean() + 1e-6).sqrt() / math.sqrt(2)
    state_scale = 0.5 ** (0.5 / NUM_HEADS)
    token_scale = math.sqrt(1 - state_scale**2) * math.sqrt(INNER_SIZE / 2)
    drafts = []
    for depth in range(NUM_HEADS):
        stage = 0 if tied else depth
        projection = tensors[f"speculator.proj.{min(depth, 1) if tied else depth}.weight"]
        embedded = tensors[f"speculator.emb.{stage}.weight"][token]
        mixed = projection @ state * state_scale + embedded * token_scale
        normed = mixed / (mixed.square().mean() + 1e-6).sqrt()
        normed = normed * tensors[f"speculator.ln.{stage}.weight"]
        state = functional.gelu(normed + tensors[f"speculator.ln.{stage}.bias"])
        token = int((tensors[f"speculator.head.{stage}.weight"] @ state).argmax())
        drafts.append(token)
    return drafts


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("own_outputs", [True, False])
def test_medusa(base: tuple[Path, Any], tmp_path: Path, kernels: str, own_outputs: bool) -> None:
    folder, model = base
    tensors = make_medusa(tmp_path, folder, own_outputs=own_outputs)
    token_id, drafts = drafts_of(folder, tmp_path, kernels)
    assert token_id == last_state(model)[1]
    assert drafts == medusa_formula(tensors, model, own_outputs=own_outputs)


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize(("tied", "scale_input"), [(False, False), (True, False), (False, True)])
def test_mlp_speculator(
    base: tuple[Path, Any], tmp_path: Path, kernels: str, tied: bool, scale_input: bool
) -> None:
    folder, model = base
    tensors = make_mlp_speculator(tmp_path, folder, tie_weights=tied, scale_input=scale_input)
    _, drafts = drafts_of(folder, tmp_path, kernels)
    assert drafts == mlp_formula(tensors, model, tied=tied, scale_input=scale_input)


def change_config(folder: Path, **fields: object) -> None:
    source = folder / "config.json"
    source.write_text(json.dumps(json.loads(source.read_text()) | fields))


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def narrow(folder: Path) -> None:
    tensors = make_mlp_speculator(folder, folder)
    tensors["speculator.proj.1.weight"] = torch.zeros(INNER_SIZE, 5)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: change_config(folder, emb_dim=HIDDEN_SIZE + 1), "emb_dim is 65, but"),
        (lambda folder: change_config(folder, vocab_size=11), "vocab_size is 11, but"),
        (lambda folder: change_config(folder, n_predict=0), "n_predict"),
        (drop_weights, "no safetensors"),
        (narrow, "proj.1"),
    ],
)
def test_heads_that_do_not_fit(
    base: tuple[Path, Any], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    make_mlp_speculator(tmp_path, base[0])
    damage(tmp_path)
    with pytest.raises(StartupError, match=message):
        drafts_of(base[0], tmp_path, "auto")
