"""Root-mean-square normalisation (Zhang and Sennrich 2019)."""

import torch
from torch import Tensor


class RMSNorm:
    """x / rms(x) * weight over the last dimension, in float32, given back in x's dtype."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        self.weight = weight
        self.epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (wide * scale).to(x.dtype)
