"""A linear layer, possibly several fused into one. How the weight is stored is its scheme's.

Over several ranks it is split along its outputs, and each rank has some of the results; or along
its inputs, and the ranks' results are summed (Shoeybi et al. 2019).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.layers.operations import Activation
from headrace.layers.parameters import ParameterLoader
from headrace.weights import Slice


class Linear:
    """x W^T + bias, [T, in_features] to [T, sum(out_features)], or to this rank's share of them."""

    def __init__(
        self,
        load: ParameterLoader,
        names: Sequence[str],
        in_features: int,
        out_features: Sequence[int],
        *,
        bias: bool = False,
        outputs: Sequence[Slice] | None = None,
        inputs: Slice | None = None,
    ) -> None:
        """Sizes are the whole model's; this rank has the shares `outputs` (of each name) and
        `inputs` of them, None being all."""
        self.weight = load.linear(names, in_features, out_features, outputs=outputs, inputs=inputs)
        self.operations = load.operations
        self.is_partial = inputs is not None and not inputs.is_whole
        self.bias: Tensor | None = None
        if bias and not (self.is_partial and load.shard.rank):  # added once
            shares = outputs or [Slice.whole(size) for size in out_features]
            sizes = zip(names, out_features, shares, strict=True)
            self.bias = torch.cat(
                [load.tensor(f"{name}.bias", (size,), share=share) for name, size, share in sizes]
            )

    def __call__(
        self, x: Activation, residual: Tensor | None = None, *, is_kept: bool = False
    ) -> Tensor:
        """With `residual` [T, out] the result is added to it, in its memory."""
        if not self.is_partial:
            return self.operations.linear(x, self.weight, self.bias, residual, is_kept=is_kept)
        partial = self.operations.linear(x, self.weight, self.bias, is_partial=True)
        return self.operations.all_reduce(partial, residual)
