"""Which safetensors files make up a checkpoint folder, and which tensors they hold.

Reads indexes and headers only, never tensor data.
"""

import json
import struct
from pathlib import Path
from typing import Any

from headrace.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError naming the file."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must be a JSON object, found a {type(value).__name__}")
    return value


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files of the index, else model.safetensors, else every *.safetensors of the folder.

    Empty when there is none. Raises CheckpointError when a file of the index is missing.
    """
    if (folder / INDEX).exists():
        return _sharded(folder)
    if (folder / SINGLE).exists():
        return (folder / SINGLE,)
    return tuple(sorted(folder.glob("*.safetensors")))


def tensor_names(files: tuple[Path, ...]) -> set[str]:
    """Names of all tensors in the files."""
    return {name for path in files for name in _header(path) if name != "__metadata__"}


def _sharded(folder: Path) -> tuple[Path, ...]:
    index = folder / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map must be an object with at least one tensor")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: {name!r} is not the name of a file in this folder")
        if not (folder / name).exists():
            raise CheckpointError(f"{folder / name} is missing, although {INDEX} names it")
    return tuple(folder / name for name in names)


def _header(path: Path) -> dict[str, Any]:
    """The JSON header: an 8-byte little-endian length, then that many bytes."""
    with path.open("rb") as file:
        prefix = file.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < size <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise CheckpointError(f"{path}: truncated, or not a safetensors file")
        text = file.read(size)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: broken safetensors header: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: broken safetensors header: not an object")
    return header
