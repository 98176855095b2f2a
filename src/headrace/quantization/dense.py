"""Weights that are a plain matrix of floats in torch."""

from torch import Tensor
from torch.nn import functional


class DenseWeight:
    """A `LinearWeight`: [out_features, in_features]."""

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
