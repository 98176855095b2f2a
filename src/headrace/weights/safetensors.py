"""Weights in safetensors files, one or several shards. Knows nothing of the model."""

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from headrace.errors import CheckpointError


class SafetensorsWeights:
    """Tensors mapped from the files: pages are read when somebody computes with them.

    The headers say which file holds a name, so that no index is needed. Raises CheckpointError
    for a file that is missing or damaged.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._file_of: dict[str, safe_open] = {}
        for path in files:
            try:
                file = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: not a usable safetensors file: {error}") from None
            for name in file.keys():  # noqa: SIM118 (not a dict)
                self._file_of[name] = file

    @property
    def names(self) -> set[str]:
        return set(self._file_of)

    def has(self, name: str) -> bool:
        return name in self._file_of

    def get(self, name: str) -> Tensor:
        if name not in self._file_of:
            raise CheckpointError(f"tensor {name} is in none of the checkpoint's files")
        return self._file_of[name].get_tensor(name)

    def raw(self, name: str) -> None:
        return None
