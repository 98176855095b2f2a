"""The Hessian of a linear layer's squared error: all that GPTQ wants to know of a text."""

import torch
from torch import Tensor


class Hessian:
    """Mean of x x^T over the inputs x seen so far; zeros before the first.

    The error of weights w + d is d H d^T for every output. GPTQ's 2 X X^T is this times a number,
    which cancels out.
    """

    def __init__(self, in_features: int) -> None:
        self.matrix = torch.zeros(in_features, in_features)
        """[in_features, in_features] float32."""
        self._count = 0

    def add(self, x: Tensor) -> None:
        """x [T, in_features]."""
        if len(x) == 0:
            return
        self._count += len(x)
        share = len(x) / self._count
        self.matrix.addmm_(x.t(), x, beta=1 - share, alpha=1 / self._count)
