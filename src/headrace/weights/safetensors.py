"""Weights in safetensors files, one or several shards. Knows nothing of the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headrace.checkpoint.safetensors import header
from headrace.errors import CheckpointError
from headrace.weights.mapped_file import MappedFile

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip
"""By the format's names."""


class SafetensorsFile:
    """One file. Raises CheckpointError when it is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.entries: dict[str, dict[str, Any]] = header(path)
            # The library checks that the tensors lie inside the file, with no gap or overlap.
            with safe_open(path, framework="pt"):
                pass
            self._file = MappedFile(path)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a usable safetensors file: {error}") from None
        self.entries.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in self.entries.values()]
        self._data = self._file.bytes[len(self._file.bytes) - max(ends, default=0) :]

    def tensor(self, name: str) -> Tensor:
        """Mapped: its pages are read when somebody computes with it."""
        entry = self.entries[name]
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(
                f"{self.path}: tensor {name} has dtype {entry['dtype']}; "
                f"readable are {', '.join(DTYPES)}"
            )
        dtype = DTYPES[entry["dtype"]]
        stored = self._data[slice(*entry["data_offsets"])]
        if stored.data_ptr() % dtype.itemsize:
            stored = stored.clone()
        return stored.view(dtype).view(entry["shape"])

    def release(self) -> None:
        """See `MappedFile.release`."""
        self._file.release()


class SafetensorsWeights:
    """Tensors mapped from the files.

    Asking for a tensor gives back the memory of those before it, until somebody reads them again.
    The headers say which file holds a name, so that no index is needed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [SafetensorsFile(path) for path in files]
        self._file_of = {name: file for file in self._files for name in file.entries}

    @property
    def names(self) -> set[str]:
        return set(self._file_of)

    def has(self, name: str) -> bool:
        return name in self._file_of

    def get(self, name: str) -> Tensor:
        if name not in self._file_of:
            raise CheckpointError(f"tensor {name} is in none of the checkpoint's files")
        for file in self._files:
            file.release()
        return self._file_of[name].tensor(name)

    def raw(self, name: str) -> None:
        return None
