"""Tiny random checkpoints in their real formats: a model, and one drafter of each kind for it."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import Settings
from headrace.runner.build import build_executor
from headrace.runner.executor import ModelExecutor
from headrace.types import EngineInfo

VOCAB_SIZE, HIDDEN_SIZE, INNER_SIZE = 260, 64, 48
NUM_HEADS = 3


def make_model(folder: Path, **changes: int) -> LlamaForCausalLM:
    """The model to draft for."""
    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN_SIZE, "intermediate_size": 128, "num_hidden_layers": 2}
    config = LlamaConfig(
        **{"vocab_size": VOCAB_SIZE, **sizes, **changes}, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def make_similar_model(folder: Path) -> None:
    """One that often, not always, chooses what the model does."""
    model = make_model(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    model.save_pretrained(folder)


def make_medusa(folder: Path, base: Path, *, own_outputs: bool = True) -> dict[str, torch.Tensor]:
    """Heads of two residual blocks; without `own_outputs` they share the model's output matrix."""
    torch.manual_seed(2)
    tensors = {}
    for head in range(NUM_HEADS):
        for block in range(2):
            tensors[f"{head}.{block}.linear.weight"] = torch.randn(HIDDEN_SIZE, HIDDEN_SIZE) * 0.1
            tensors[f"{head}.{block}.linear.bias"] = torch.randn(HIDDEN_SIZE) * 0.1
        if own_outputs:
            tensors[f"{head}.2.weight"] = torch.randn(VOCAB_SIZE, HIDDEN_SIZE) * 0.2
    config = {
        "medusa_num_heads": NUM_HEADS,
        "medusa_num_layers": 2,
        "base_model_name_or_path": str(base),
    }
    _save(folder, "medusa_lm_head.safetensors", tensors, config)
    return tensors


def make_mlp_speculator(
    folder: Path, base: Path, *, tie_weights: bool = False, scale_input: bool = False
) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    tensors = {}
    for stage in range(1 if tie_weights else NUM_HEADS):
        tensors[f"speculator.emb.{stage}.weight"] = torch.randn(VOCAB_SIZE, INNER_SIZE)
        tensors[f"speculator.ln.{stage}.weight"] = 1 + torch.randn(INNER_SIZE) * 0.1
        tensors[f"speculator.ln.{stage}.bias"] = torch.randn(INNER_SIZE) * 0.1
        tensors[f"speculator.head.{stage}.weight"] = torch.randn(VOCAB_SIZE, INNER_SIZE) * 0.3
    for depth in range(2 if tie_weights else NUM_HEADS):
        width = INNER_SIZE if depth else HIDDEN_SIZE
        tensors[f"speculator.proj.{depth}.weight"] = torch.randn(INNER_SIZE, width) * 0.1
    config = {
        "architectures": ["MLPSpeculatorPreTrainedModel"],
        "model_type": "mlp_speculator",
        "n_predict": NUM_HEADS,
        "n_candidates": 5,
        "emb_dim": HIDDEN_SIZE,
        "inner_dim": INNER_SIZE,
        "vocab_size": VOCAB_SIZE,
        "tie_weights": tie_weights,
        "scale_input": scale_input,
        "base_model_name_or_path": str(base),
    }
    _save(folder, "model.safetensors", tensors, config)
    return tensors


def _save(
    folder: Path, name: str, tensors: dict[str, torch.Tensor], config: dict[str, object]
) -> None:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    (folder / "config.json").write_text(json.dumps(config))


def make_drafter(kind: str, folder: Path, base: Path) -> Path | None:
    """By name of the kind; None for self-speculation."""
    path = folder / kind
    if kind == "self":
        return None
    if kind == "same model":
        return base
    if kind == "similar model":
        make_similar_model(path)
    elif kind == "medusa":
        make_medusa(path, base)
    else:
        make_mlp_speculator(path, base)
    return path


KINDS = ("same model", "similar model", "self", "medusa", "mlp speculator")


def executor_with(
    kind: str | None, folder: Path, base: Path, **settings: object
) -> tuple[ModelExecutor, EngineInfo]:
    """The model's executor with a drafter of that kind."""
    options = Settings(
        **{"device": "cpu", "cpu_threads": 1, "max_batch_size": 8, "max_batch_total_tokens": 1024,
           "draft_model_id": "self" if kind == "self" else None, **settings},
    )  # type: ignore[arg-type] # fmt: skip
    drafter = make_drafter(kind, folder, base) if kind else None
    return build_executor(options, open_checkpoint(base), lambda *_: None, drafter=drafter)
