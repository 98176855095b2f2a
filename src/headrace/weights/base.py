"""What a source of weights offers. Nothing is read before it is asked for."""

from typing import Protocol

from torch import Tensor


class Weights(Protocol):
    """Tensors by Hugging Face parameter name, for example "model.norm.weight"."""

    def has(self, name: str) -> bool: ...

    def get(self, name: str) -> Tensor:
        """The tensor on the CPU, in its stored dtype (float32 where it is stored in blocks).

        It may share read-only memory with the file: copy before writing. Raises
        CheckpointError when there is no such tensor or its data cannot be used.
        """
        ...
