"""No quantization: weights in the dtype of the activations (GGUF blocks are unpacked)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from headrace.errors import CheckpointError
from headrace.weights.base import Weights


class DenseWeight:
    """A plain matrix [out_features, in_features]."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.out_features, self.in_features = weight.shape
        self.nbytes = weight.nbytes

    def apply(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        if residual is None:
            return functional.linear(x, self.weight, bias)
        accumulated = residual.addmm_(x, self.weight.t())
        return accumulated if bias is None else accumulated.add_(bias)


class Unquantized:
    """See `quantization.base.Scheme`."""

    def __init__(self, config: dict[str, Any], *, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device

    def load(self, weights: Weights, names: Sequence[str]) -> DenseWeight:
        matrices = [self._matrix(weights, f"{name}.weight") for name in names]
        return DenseWeight(matrices[0] if len(matrices) == 1 else torch.cat(matrices))

    def _matrix(self, weights: Weights, name: str) -> Tensor:
        matrix = weights.get(name)
        if matrix.dim() != 2 or not matrix.is_floating_point():
            raise CheckpointError(
                f"tensor {name}: expected a matrix of floating-point numbers, "
                f"found {list(matrix.shape)} {matrix.dtype}"
            )
        return matrix.to(device=self._device, dtype=self._dtype)
