"""What all ops have in common. Knows no op."""

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

import torch
from torch import Tensor

from headrace.kernels.tensors import PackedWeight, Rows, check


class Abilities(Protocol):
    """What an op's checks ask of the kernels that are to run it."""

    samples_anywhere: bool

    def input_dtypes(self, weight: PackedWeight) -> tuple[torch.dtype, ...]: ...


@dataclass(frozen=True, slots=True)
class Op(ABC):
    """An op's arguments; what it does is the subclass's docstring."""

    _: KW_ONLY
    rows: Tensor | None = None
    """[1] int32, read when the op runs: on how many rows; None: on all that the buffers hold."""

    @abstractmethod
    def check(self, kernels: Abilities) -> int:
        """Return the rows that the buffers hold; raise ValueError for what does not fit."""

    def checked_rows(self, kernels: Abilities) -> Rows:
        """The same, and how many of them it works on."""
        capacity = self.check(kernels)
        if self.rows is not None:
            check(self.rows, "rows", torch.int32, 1)
        return Rows(self.rows, capacity)


def check_optional(tensor: Tensor | None, name: str, dtype: torch.dtype, *shape: int) -> None:
    """`check` of a tensor if there is one."""
    if tensor is not None:
        check(tensor, name, dtype, *shape)
