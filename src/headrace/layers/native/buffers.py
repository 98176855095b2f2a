"""The buffers that recorded passes write their results to, by use. Knows no operation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.kernels import Activation, Kernels, Split, SplitActivation


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows a pass may have, and where their number stands when it runs."""

    capacity: int
    tokens: Tensor
    """[1] int32."""
    sequences: Tensor
    """[1] int32."""
    boundary: Tensor | None = None
    """[1] int32: rows from here on stand at prompt positions, those before at generated ones. None:
    where they stand makes no difference."""

    @property
    def key(self) -> tuple[int, int]:
        """Equal where the same buffers serve."""
        return self.capacity, 0 if self.boundary is None else self.boundary.data_ptr()


class Buffers:
    """Made when first asked for, for the rows of `counts`."""

    counts: Counts
    """Of the pass, to be set before all else."""

    def __init__(self, kernels: Kernels, prompt_dtype: torch.dtype | None) -> None:
        """`prompt_dtype`: see `NativeOperations`."""
        self.kernels = kernels
        self._prompt_dtype = prompt_dtype
        self._activations: dict[tuple[object, ...], Activation] = {}

    @property
    def split(self) -> Split | None:
        """Of int8 activations."""
        boundary = self.counts.boundary
        if self._prompt_dtype is None or boundary is None:
            return None
        return Split(self._prompt_dtype, boundary)

    def activation(self, use: str, features: int, dtype: torch.dtype = torch.float32) -> Activation:
        key = (use, self.counts.key, features, dtype)
        if key not in self._activations:
            split = self.split if dtype == torch.int8 else None
            self._activations[key] = self.kernels.activation(
                self.counts.capacity, features, dtype, split
            )
        return self._activations[key]

    def floats(self, use: str, features: int) -> Tensor:
        buffer = self.activation(use, features)
        assert isinstance(buffer, Tensor)
        return buffer

    @property
    def distinguish_prompts(self) -> bool:
        """Whether some have parts of their own for rows at prompt positions."""
        return any(isinstance(x, SplitActivation) for x in self._activations.values())
