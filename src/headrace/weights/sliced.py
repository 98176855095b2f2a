"""The part of each tensor that one rank needs, cut before anything is read or unpacked.

A layer says which rows and columns of its matrix [out_features, in_features] it wants, a scheme
which way the dimensions of its tensors run along that matrix. Whatever a tensor packs into one
element (eight values of 4 bits, a scale for 128 inputs), a cut falls between two elements or is
refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from headrace.errors import CheckpointError
from headrace.weights.base import RawTensor, Weights
from headrace.weights.dequantize import dequantize

Axis = Literal["out", "in"] | None
"""What a tensor's dimension runs along; None: neither, all of it is needed."""
Axes = Mapping[str, tuple[Axis, ...]]
"""By the last part of a tensor's name ("weight"), the axes of its dimensions."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The share start..stop of `total`, in any unit: heads, features, token ids."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def is_whole(self) -> bool:
        return len(self) == self.total

    @classmethod
    def whole(cls, total: int) -> "Slice":
        return cls(0, total, total)

    def of(self, size: int) -> slice:
        """The same share of `size` elements. Raises ValueError if it begins or ends within one."""
        start, stop = self.start * size, self.stop * size
        if start % self.total or stop % self.total:
            raise ValueError(f"{self.start}..{self.stop} of {self.total} is no share of {size}")
        return slice(start // self.total, stop // self.total)

    def count(self, size: int) -> int:
        """How many of `size` elements that are; raises as `of`."""
        cut = self.of(size)
        return int(cut.stop - cut.start)


@dataclass(frozen=True, slots=True)
class Part:
    """The share of one layer's matrix."""

    rows: Slice
    """Along the outputs."""
    columns: Slice
    """Along the inputs."""

    def along(self, axis: Axis) -> Slice:
        return {"out": self.rows, "in": self.columns, None: Slice.whole(1)}[axis]


class SlicedWeights:
    """`Weights` of the layers in `parts` (by name, "model.layers.0.mlp.up_proj"), cut to size."""

    def __init__(self, weights: Weights, parts: Mapping[str, Part], axes: Axes) -> None:
        self._weights = weights
        self._parts = parts
        self._axes = axes

    def has(self, name: str) -> bool:
        """Tensors without axes do not exist: nobody could tell which part of them is meant."""
        return name.rpartition(".")[2] in self._axes and self._weights.has(name)

    def get(self, name: str) -> Tensor:
        """See `Weights.get`. Raises CheckpointError where the tensor cannot be cut."""
        if (raw := self.raw(name)) is not None:
            return dequantize(raw.type, raw.data).view(raw.shape)
        tensor = self._weights.get(name)
        shares = zip(self._shares(name, tensor.dim()), tensor.shape, strict=True)
        # One element for all is nobody's share in particular.
        cuts = [slice(None) if size == 1 else _cut(name, share, size) for share, size in shares]
        return tensor[tuple(cuts)]

    def raw(self, name: str) -> RawTensor | None:
        raw = self._weights.raw(name)
        if raw is None:
            return None
        shares = zip(self._shares(name, 2), (len(raw.data), raw.num_blocks), strict=True)
        rows, blocks = (_cut(name, share, size) for share, size in shares)
        first, last = (block * raw.type.block_bytes for block in (blocks.start, blocks.stop))
        data = raw.data[rows, first:last]
        width = (blocks.stop - blocks.start) * raw.type.block_size
        return replace(raw, data=data, shape=(len(data), width))

    def _shares(self, name: str, dimensions: int) -> list[Slice]:
        layer, _, suffix = name.rpartition(".")
        axes = self._axes[suffix]
        # What has fewer dimensions than it could have is one number for all.
        return [self._parts[layer].along(axis) for axis in axes][:dimensions]


def _cut(name: str, share: Slice, size: int) -> slice:
    try:
        return share.of(size)
    except ValueError as error:
        raise CheckpointError(
            f"tensor {name} cannot be cut: {error} rows, columns, groups or blocks; "
            "choose another --num-shard"
        ) from None
