"""What a source of weights offers. Nothing is read before it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from headrace.checkpoint.ggml import GGMLType


@dataclass(frozen=True)
class RawTensor:
    """A tensor stored in GGUF blocks: rows of whole blocks (see `dequantize`)."""

    type: GGMLType
    data: Tensor
    """[rows, bytes per row] uint8; a vector has one block per row."""
    shape: tuple[int, ...]
    first: int = 0
    """Columns that each row's first block has before those of the tensor."""

    def rows(self, pick: Callable[[Tensor], Tensor]) -> "RawTensor":
        """Those rows of a matrix that `pick` takes of a tensor."""
        data = pick(self.data)
        return replace(self, data=data, shape=(len(data), *self.shape[1:]))


class Weights(Protocol):
    """Tensors by Hugging Face parameter name, for example "model.norm.weight"."""

    def has(self, name: str) -> bool: ...

    def get(self, name: str) -> Tensor:
        """The tensor on the CPU, in its stored dtype (float32 where it is stored in blocks).

        It may share read-only memory with the file: copy before writing. Raises
        CheckpointError when there is no such tensor or its data cannot be used.
        """
        ...

    def raw(self, name: str) -> RawTensor | None:
        """The tensor's blocks without unpacking them; None if it is not stored in blocks."""
        ...
