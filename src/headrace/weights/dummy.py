"""Random weights of the shapes that a config asks for: speed and memory without a download."""

from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from headrace.errors import CheckpointError

SCALE = 0.02
"""Standard deviation; the usual initializer_range."""


def parameter_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter in one decoder layer (no layer number) and outside the layers."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or hidden // heads
    query = heads * head_size
    key_value = (config.get("num_key_value_heads") or heads) * head_size
    linears = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "model.embed_tokens": (config["vocab_size"], hidden),
        "lm_head": (config["vocab_size"], hidden),
    }
    norms = {
        "input_layernorm": hidden,
        "post_attention_layernorm": hidden,
        "model.norm": hidden,
        "self_attn.q_norm": head_size,
        "self_attn.k_norm": head_size,
    }
    return {
        **{f"{name}.weight": shape for name, shape in linears.items()},
        **{f"{name}.bias": shape[:1] for name, shape in linears.items()},
        **{f"{name}.weight": (size,) for name, size in norms.items()},
    }


class DummyWeights:
    """Normally distributed matrices, norms of one; the same for the same name in every run."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._shapes = parameter_shapes(config)
        self._dtype: torch.dtype = getattr(torch, config.get("dtype") or "float32")

    def _shape(self, name: str) -> tuple[int, ...] | None:
        parts = name.split(".")
        inner = ".".join(parts[3:]) if parts[:2] == ["model", "layers"] else name
        return self._shapes.get(inner)

    def has(self, name: str) -> bool:
        return self._shape(name) is not None

    def get(self, name: str) -> Tensor:
        shape = self._shape(name)
        if shape is None:
            raise CheckpointError(f"no shape is known for a random {name}")
        if "norm" in name:
            return torch.ones(shape)
        generator = torch.Generator().manual_seed(crc32(name.encode()))
        return torch.empty(shape, dtype=self._dtype).normal_(0, SCALE, generator=generator)

    def raw(self, name: str) -> None:
        return None
