"""Activations of MLPs by their Hugging Face names, and what gates one half by the other."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_fast": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}
CLAMPED_SWIGLU = "clamped_swiglu"
"""A gating function of its own (GPT-OSS)."""
SWIGLU_ALPHA = 1.702
SWIGLU_LIMIT = 7.0


def gate(activation: str, gates: Tensor, values: Tensor) -> Tensor:
    """activation(gates) * values."""
    if activation == CLAMPED_SWIGLU:
        gates = gates.clamp(max=SWIGLU_LIMIT)
        values = values.clamp(-SWIGLU_LIMIT, SWIGLU_LIMIT)
        return gates * torch.sigmoid(SWIGLU_ALPHA * gates) * (values + 1)
    return ACTIVATIONS[activation](gates) * values
