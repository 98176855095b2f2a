"""Tiny random checkpoints of every family, made by transformers: the oracle and its files."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from headrace.models import ARCHITECTURES

BASE = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "LlamaForCausalLM": {
        "plain": {},
        "tied": {"tie_word_embeddings": True},
        "biases": {"attention_bias": True, "mlp_bias": True},
        "llama3-rope": {"rope_parameters": LLAMA3_ROPE},
        "linear-rope": {
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
        },
        "odd-heads": {"num_key_value_heads": 1, "head_dim": 24, "hidden_act": "gelu"},
    },
    "MistralForCausalLM": {"window": {"sliding_window": 7}, "plain": {"sliding_window": None}},
    "Qwen2ForCausalLM": {"plain": {}, "window": QWEN_WINDOW, "tied": {"tie_word_embeddings": True}},
    "Qwen3ForCausalLM": {
        "plain": {},
        "window": QWEN_WINDOW,
        "bias": {"attention_bias": True},
        "yarn": {"rope_parameters": YARN_ROPE},
    },
}
ALL_CASES = [
    pytest.param((architecture, case), id=f"{architecture}-{case}")
    for architecture in ARCHITECTURES
    for case in CASES.get(architecture, {"missing": {}})
]


def make_checkpoint(
    folder: Path, architecture: str, case: str | dict[str, Any], **save: Any
) -> Any:
    """Save a tiny model with every parameter random; returns it for comparison."""
    changes = CASES[architecture][case] if isinstance(case, str) else case
    torch.manual_seed(sum(map(ord, architecture + str(changes))))
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**BASE | changes)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder, **save)
    return model
