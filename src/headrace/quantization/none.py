"""No quantization scheme: weights as the checkpoint has them.

In plain torch that is a matrix in the dtype of the activations (GGUF blocks are unpacked); the CPU
kernels keep blocks quantized and 16-bit floats narrow.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from headrace.errors import CheckpointError
from headrace.kernels import BLOCK_FORMATS, Kernels
from headrace.quantization.base import LinearWeight, Target
from headrace.quantization.packed import pack_blocks, pack_floats
from headrace.weights.base import RawTensor, Weights


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

    def lookup(self, token_ids: Tensor) -> Tensor:
        return functional.embedding(token_ids, self.weight)


class Unquantized:
    """See `quantization.base.Scheme`."""

    def __init__(self, config: dict[str, Any], target: Target) -> None:
        self._target = target

    def load(self, weights: Weights, names: Sequence[str]) -> LinearWeight:
        files = [f"{name}.weight" for name in names]
        if self._target.kernels is not None:
            return self._packed(self._target.kernels, weights, files)
        target = self._target
        matrices = [
            _matrix(weights, name).to(device=target.device, dtype=target.dtype) for name in files
        ]
        return DenseWeight(matrices[0] if len(matrices) == 1 else torch.cat(matrices))

    def _packed(self, kernels: Kernels, weights: Weights, names: Sequence[str]) -> LinearWeight:
        blocks = [_blocks(weights, name) for name in names]
        if all(blocks):
            parts = [part for part in blocks if part is not None]
            return pack_blocks(kernels, parts, exact=self._target.exact_activations)
        matrices = [_matrix(weights, name) for name in names]
        target = self._target
        return pack_floats(kernels, matrices, target.weight_dtype, exact=target.exact_activations)


def _blocks(weights: Weights, name: str) -> RawTensor | None:
    raw = weights.raw(name)
    return raw if raw is not None and raw.type.name in BLOCK_FORMATS else None


def _matrix(weights: Weights, name: str) -> Tensor:
    matrix = weights.get(name)
    if matrix.dim() != 2 or not matrix.is_floating_point():
        raise CheckpointError(
            f"tensor {name}: expected a matrix of floating-point numbers, "
            f"found {list(matrix.shape)} {matrix.dtype}"
        )
    return matrix
