"""The part of a tensor that one rank needs. Tensors are mapped from files, so that what is cut off
is never read."""

from dataclasses import dataclass, replace

from torch import Tensor

from headrace.errors import CheckpointError
from headrace.weights.base import RawTensor

GROUP_SIZE = 32
"""Columns of a block format that belong together: they share a scale, or a bit of each byte."""


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
        """The same share of `size` elements. Raises CheckpointError if it begins or ends within
        one."""
        start, stop = self.start * size, self.stop * size
        if start % self.total or stop % self.total:
            raise CheckpointError(
                f"{size} features or blocks cannot be cut at {self.start}/{self.total} and "
                f"{self.stop}/{self.total}: choose another --num-shard"
            )
        return slice(start // self.total, stop // self.total)

    def count(self, size: int) -> int:
        """How many of `size` elements that are; raises as `of`."""
        cut = self.of(size)
        return int(cut.stop - cut.start)


@dataclass(frozen=True, slots=True)
class Part:
    """The share of a matrix [out_features, in_features]."""

    rows: Slice
    columns: Slice

    @classmethod
    def whole(cls) -> "Part":
        return cls(Slice.whole(1), Slice.whole(1))

    def of(self, matrix: Tensor) -> Tensor:
        """A view. Raises CheckpointError as `Slice.of`."""
        return matrix[self.rows.of(len(matrix)), self.columns.of(matrix.shape[1])]

    def of_blocks(self, raw: RawTensor) -> RawTensor:
        """The same of a matrix in blocks: all those that have columns of the part. Raises likewise,
        for parts that are not whole groups too."""
        groups, rows = self.columns.of(raw.shape[-1] // GROUP_SIZE), self.rows.of(len(raw.data))
        start, stop = groups.start * GROUP_SIZE, groups.stop * GROUP_SIZE
        size, num_bytes = raw.type.block_size, raw.type.block_bytes
        data = raw.data[rows, start // size * num_bytes : -(-stop // size) * num_bytes]
        return replace(raw, data=data, shape=(len(data), stop - start), first=start % size)
