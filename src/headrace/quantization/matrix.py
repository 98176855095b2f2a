"""`QuantizedMatrix`: what every scheme reads its tensors into, whatever their layout in the files.

Knows numbers, neither files nor devices' layouts.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from headrace.kernels.codebooks import CODEBOOKS

Element = Literal["integer", "nf4", "fp4", "mxfp4", "float8"]
"""What a code stands for: itself, or an entry of a codebook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedMatrix:
    """w[n, k] = (value(codes[n, k]) - zero_points[n, g]) * scales[n, g].

    g is k // group_size, or group_index[k] where the columns were quantized in another order.
    """

    codes: Tensor
    """[out_features, in_features] uint8, below 2 ** bits."""
    scales: Tensor
    """[out_features, groups] of any float dtype."""
    bits: int
    element: Element = "integer"
    zero_points: Tensor | None = None
    """[out_features, groups], whole in uint8, or floats in whole sixteenths below 16; None:
    2 ** (bits - 1) for integers, else 0."""
    group_index: Tensor | None = None
    """[in_features] int32."""

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def group_size(self) -> int:
        """Columns that share a scale; means nothing with a group_index."""
        return self.codes.shape[1] // self.scales.shape[1]

    def to(self, device: torch.device) -> "QuantizedMatrix":
        """The same on another device, scales and zero points with their rows in order."""
        zero_points = self.zero_points
        return replace(
            self,
            codes=self.codes.to(device),
            scales=self.scales.to(device).contiguous(),
            zero_points=None if zero_points is None else zero_points.to(device).contiguous(),
            group_index=None if self.group_index is None else self.group_index.to(device),
        )

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix, [out_features, in_features]."""
        if self.element == "integer":
            values = self.codes.to(dtype)
        else:
            codebook = CODEBOOKS[self.element].to(device=self.codes.device, dtype=dtype)
            values = codebook[self.codes.int()]
        if self.zero_points is not None:
            values -= self._spread(self.zero_points.to(dtype))
        elif self.element == "integer":
            values -= 2 ** (self.bits - 1)
        return values.mul_(self._spread(self.scales.to(dtype)))

    def _spread(self, of_groups: Tensor) -> Tensor:
        """[out_features, groups] to something that broadcasts over [out_features, in_features]."""
        if self.group_index is not None:
            return of_groups[:, self.group_index]
        if of_groups.shape[1] == 1:
            return of_groups
        return of_groups.repeat_interleave(self.group_size, 1)

    def rows(self, index: Tensor | slice) -> "QuantizedMatrix":
        """Only these outputs."""
        return replace(
            self,
            codes=self.codes[index],
            scales=self.scales[index],
            zero_points=None if self.zero_points is None else self.zero_points[index],
        )

    def columns(self, start: int, stop: int) -> "QuantizedMatrix":
        """Only these inputs. A cut within a group, or of a matrix in another order, keeps all
        scales and says by index which columns use which."""
        codes = self.codes[:, start:stop]
        size = self.group_size
        if self.group_index is not None:
            return replace(self, codes=codes, group_index=self.group_index[start:stop])
        if self.scales.shape[1] == 1:
            return replace(self, codes=codes)
        if start % size or stop % size:
            index = torch.arange(start, stop, dtype=torch.int32, device=codes.device) // size
            return replace(self, codes=codes, group_index=index)
        groups = slice(start // size, stop // size)
        zero_points = None if self.zero_points is None else self.zero_points[:, groups]
        return replace(self, codes=codes, scales=self.scales[:, groups], zero_points=zero_points)
