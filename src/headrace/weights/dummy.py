"""Random weights: speed and memory of a model without a download."""

from zlib import crc32

import torch
from torch import Tensor

from headrace.errors import CheckpointError

SCALE = 0.02
"""Standard deviation; the usual initializer_range."""


class DummyWeights:
    """Normally distributed matrices, norms of one; the same for the same name in every run."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of the parameters there are; whoever needs one enters it first."""
        self._dtype = dtype

    def has(self, name: str) -> bool:
        return name in self.shapes

    def get(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise CheckpointError(f"no shape is known for a random {name}")
        if "norm" in name:
            return torch.ones(self.shapes[name])
        generator = torch.Generator().manual_seed(crc32(name.encode()))
        values = torch.empty(self.shapes[name], dtype=self._dtype)
        return values.normal_(0, SCALE, generator=generator)

    def raw(self, name: str) -> None:
        return None
