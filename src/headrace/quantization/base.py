"""What a quantization scheme offers: it loads the weight of a linear layer and applies it.

A scheme may keep several layers that read the same input (q, k, v; gate, up) as one weight,
fused along the output dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from headrace.kernels import Kernels
from headrace.weights.base import Weights
from headrace.weights.parts import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where linear layers will run, and in what."""

    dtype: torch.dtype
    """Of activations."""
    device: torch.device
    weight_dtype: torch.dtype | None = None
    """Of floating-point weights for the kernels; None: as stored."""
    kernels: Kernels | None = None
    """CPU kernels that the layers run on; None: plain torch."""
    exact_activations: bool = False
    """The kernels read float32 activations with all weights, not int8 or bfloat16."""


class LinearWeight(Protocol):
    """One matrix [out_features, in_features] in the scheme's own layout."""

    in_features: int
    out_features: int
    nbytes: int

    def apply(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """x [T, in_features] to x W^T + bias + residual, [T, out_features] in x's dtype.

        The result may be in residual's memory: the caller gives `residual` away.
        """
        ...

    def lookup(self, token_ids: Tensor) -> Tensor:
        """Rows of the matrix: token_ids [T] to [T, in_features]."""
        ...


class Scheme(Protocol):
    """How the linear layers of one checkpoint are stored."""

    def __init__(self, config: dict[str, Any], target: Target) -> None:
        """`config` is the quantization_config of config.json, {} without one. Raises StartupError
        for settings the scheme does not support."""

    def load(self, weights: Weights, names: Sequence[str], parts: Sequence[Part]) -> LinearWeight:
        """The weight of the layers `names` ("model.layers.0.self_attn.q_proj"), of each its part,
        one after another. Raises CheckpointError naming a tensor that is missing or does not
        fit."""
        ...
