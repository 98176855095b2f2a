"""The grid that the weights of a group are rounded to: a scale, a zero point, some bits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.quantization.matrix import QuantizedMatrix


@dataclass(frozen=True)
class Points:
    """The grids of many groups, one element for each: (code - zero point) * scale."""

    scales: Tensor
    """float32, such as float16 can hold."""
    zero_points: Tensor
    """float32, whole."""


@dataclass(frozen=True)
class Grid:
    """Unsigned codes of `bits` bits."""

    bits: int
    is_symmetric: bool
    """The zero point is the middle code, the range reaches as far down as up."""

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def fit(self, groups: Tensor, dim: int) -> Points:
        """Grids that cover all numbers along `dim`, and zero."""
        low, high = groups.amin(dim).clamp(max=0), groups.amax(dim).clamp(min=0)
        if self.is_symmetric:
            high = torch.maximum(high, -low)
            low = -high
        # Stored in float16, so that is what the codes must be made for.
        scales = ((high - low) / self.top).half().float()
        scales = torch.where(scales > 0, scales, 1.0)
        if self.is_symmetric:
            return Points(scales, torch.full_like(scales, (self.top + 1) // 2))
        # From 1 on: GPTQ stores zero points less one, and many readers cannot tell -1 from the top.
        return Points(scales, (-low / scales).round_().clamp_(1, self.top))

    def codes(self, values: Tensor, points: Points) -> Tensor:
        """The nearest codes, as float32; `points` broadcasts to `values`."""
        return (values / points.scales + points.zero_points).round_().clamp_(0, self.top)


def values(codes: Tensor, points: Points) -> Tensor:
    """What codes stand for."""
    return (codes - points.zero_points) * points.scales


def round_to_nearest(matrix: Tensor, grid: Grid, group_size: int) -> QuantizedMatrix:
    """[out_features, in_features] in groups of `group_size` inputs, which divides them."""
    groups = matrix.unflatten(1, (-1, group_size))
    points = grid.fit(groups, dim=-1)
    wide = Points(points.scales.unsqueeze(-1), points.zero_points.unsqueeze(-1))
    codes = grid.codes(groups, wide).flatten(1)
    return QuantizedMatrix(
        codes=codes.to(torch.uint8),
        scales=points.scales,
        zero_points=None if grid.is_symmetric else points.zero_points,
        bits=grid.bits,
    )
