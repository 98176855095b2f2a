"""Typed access to the metadata keys of a GGUF file's architecture."""

from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.checkpoint.ggml import GGMLType
from headrace.checkpoint.gguf import GGUFFile
from headrace.errors import CheckpointError


class GGUFMetadata:
    """Typed access to the keys of one architecture."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.architecture = file.metadata.get("general.architecture")

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """The value of `<architecture>.<name>`; without a default the key must exist."""
        key = f"{self.architecture}.{name}"
        value = self.file.metadata.get(key, default)
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind):
            raise CheckpointError(
                f"{self.file.path}: {key} must be of type {kind.__name__}, found {value!r:.80}"
            )
        return value

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor that llama.cpp keeps beside the metadata, [n] float32."""
        tensor = self.file.tensors.get(name)
        if tensor is None or tensor.type is not GGMLType.F32:
            raise CheckpointError(f"{self.file.path}: tensor {name!r} must be F32")
        return self.file.data(name).view("<f4")
