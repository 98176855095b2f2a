"""Headers of safetensors files, and JSON files. Never reads tensor data."""

import json
import struct
from pathlib import Path
from typing import Any

from headrace.errors import CheckpointError

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


def header(path: Path) -> dict[str, Any]:
    """The JSON header: an 8-byte little-endian length, then that many bytes.

    Raises CheckpointError for a file that is truncated or damaged.
    """
    file_size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < size <= min(MAX_HEADER_BYTES, file_size - 8):
            raise CheckpointError(f"{path}: truncated, or not a safetensors file")
        text = file.read(size)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: broken safetensors header: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: broken safetensors header: not an object")
    for name, entry in header.items():
        match entry:
            case {"data_offsets": [int(), int(end)]} if 8 + size + end > file_size:
                raise CheckpointError(
                    f"{path}: tensor {name}: expected to end at byte {8 + size + end}, "
                    f"found the file's end at {file_size}"
                )
    return header
