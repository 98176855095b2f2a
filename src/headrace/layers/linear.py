"""A linear layer, possibly several fused into one. How the weight is stored is its scheme's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.layers.operations import Activation
from headrace.layers.parameters import ParameterLoader


class Linear:
    """x W^T + bias, [T, in_features] to [T, sum(out_features)]."""

    def __init__(
        self,
        load: ParameterLoader,
        names: Sequence[str],
        in_features: int,
        out_features: Sequence[int],
        *,
        bias: bool = False,
    ) -> None:
        self.weight = load.linear(names, in_features, out_features)
        self.operations = load.operations
        self.bias: Tensor | None = None
        if bias:
            sizes = zip(names, out_features, strict=True)
            self.bias = torch.cat([load.tensor(f"{name}.bias", (size,)) for name, size in sizes])

    def __call__(self, x: Activation, residual: Tensor | None = None) -> Tensor:
        """With `residual` [T, out] the result is added to it, in its memory."""
        return self.operations.linear(x, self.weight, self.bias, residual)
