"""What a quantization scheme offers: it loads the weight of a linear layer and applies it.

A scheme may keep several layers that read the same input (q, k, v; gate, up) as one weight,
fused along the output dimension.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from headrace.weights.base import Weights


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


class Scheme(Protocol):
    """How the linear layers of one checkpoint are stored."""

    def __init__(self, config: dict[str, Any], *, dtype: torch.dtype, device: torch.device) -> None:
        """`config` is the quantization_config of config.json, {} without one; `dtype` is that
        of activations. Raises StartupError for settings the scheme does not support."""

    def load(self, weights: Weights, names: Sequence[str]) -> LinearWeight:
        """The weight of the layers `names` ("model.layers.0.self_attn.q_proj"), one after
        another. Raises CheckpointError naming a tensor that is missing or does not fit."""
        ...
