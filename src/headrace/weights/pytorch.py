"""Weights in PyTorch's .bin files, one or several shards.

They are pickles, which can hold code: torch's restricted unpickler reads tensors and nothing else.
"""

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from headrace.errors import CheckpointError


class PytorchWeights:
    """Tensors mapped from the files (only those of before PyTorch 1.6 are read as a whole).

    Raises CheckpointError for a file that is missing, damaged, or holds more than tensors.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._tensors: dict[str, Tensor] = {}
        for path in files:
            self._tensors.update(_load(path))

    @property
    def names(self) -> set[str]:
        return set(self._tensors)

    def has(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise CheckpointError(f"tensor {name} is in none of the checkpoint's files")
        return self._tensors[name]

    def raw(self, name: str) -> None:
        return None


def _load(path: Path) -> dict[str, Tensor]:
    try:
        can_map = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: is refused, it holds more than tensors: {reason}") from None
    except Exception as error:  # Whatever broken bytes provoke in the unpickler.
        raise CheckpointError(f"{path}: not a usable PyTorch file: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"{path}: must hold tensors by name and nothing else")
    return content
