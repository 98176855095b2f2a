"""Normalisation of the residual stream, and of query and key heads.

Root mean square (Zhang and Sennrich 2019) or layer norm (Ba et al. 2016).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headrace.layers.operations import Activation, NormParameters
from headrace.layers.parameters import ParameterLoader
from headrace.quantization import LinearWeight
from headrace.weights import Slice


@dataclass(frozen=True, kw_only=True)
class NormSpec:
    """One kind of norm, whatever its size."""

    epsilon: float
    kind: Literal["rms", "layer"] = "rms"
    has_weight: bool = True
    has_bias: bool = False
    offset: float = 0.0
    """Added to the stored weight (Gemma's is stored as the difference from 1)."""
    scale: float = 1.0
    """Multiplies the result."""


def load_norm(
    load: ParameterLoader,
    name: str,
    shape: tuple[int, ...],
    spec: NormSpec,
    share: Slice | None = None,
) -> NormParameters:
    """Parameters of `shape`, or a share of its first dimension; the last is the normalised one."""
    if not spec.has_weight:
        rows = share.count(shape[0]) if share else shape[0]
        weight = torch.full((rows, *shape[1:]), spec.scale, device=load.device)
    elif spec.offset == 0 and spec.scale == 1:
        weight = load.tensor(f"{name}.weight", shape, share=share)
    else:
        # Small differences from the offset would be lost in 16 bits.
        stored = load.tensor(f"{name}.weight", shape, torch.float32, share)
        weight = (stored + spec.offset) * spec.scale
    bias = None
    if spec.has_bias:
        bias = load.tensor(f"{name}.bias", shape, share=share) * spec.scale
    return NormParameters(spec.kind, spec.epsilon, weight, bias)


class Norm:
    """[T, size] to [T, size]."""

    def __init__(self, load: ParameterLoader, name: str, size: int, spec: NormSpec) -> None:
        self.parameters = load_norm(load, name, (size,), spec)
        self.operations = load.operations

    def __call__(self, x: Tensor, consumer: LinearWeight | None) -> Activation:
        """`consumer`: the weight of the linear layer that reads the result; None: read as it is."""
        return self.operations.norm(x, self.parameters, consumer)

    def residual(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The result in the residual stream, or added to it, in its memory."""
        return self.operations.residual_norm(x, self.parameters, residual)
