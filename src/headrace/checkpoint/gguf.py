"""The GGUF container, versions 2 and 3: metadata and tensor table of a memory-mapped file.

Knows the file format only, not what the keys or tensors mean. The file is untrusted: every length
and offset is checked against the file's size before it is used.
Source: `docs/gguf.md` of ggml.
"""

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.checkpoint.ggml import GGML_TYPES, GGMLType
from headrace.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
MAX_PARTS = 99_999
"""What the names of parts have room for."""

STRING, ARRAY = 8, 9
SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
    6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
"""GGUF value type to numpy dtype."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One entry of the tensor table."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    """Row-major, as torch writes it (the file has the innermost dimension first)."""
    offset: int
    """Bytes from the beginning of the file."""
    nbytes: int
    part: int = 0
    """Index in `GGUFFile.paths`."""


class _Cursor:
    """Reads little-endian values one after another, never past the end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = 0

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}")

    def advance(self, size: int) -> int:
        """Skip `size` bytes; returns where they begin."""
        start = self.position
        if size > len(self.data) - start:
            left = len(self.data) - start
            raise self.error(f"truncated: {size} bytes expected at {start}, {left} are left")
        self.position = start + size
        return start

    def unpack(self, layout: struct.Struct) -> Any:
        start = self.advance(layout.size)
        return layout.unpack_from(self.data, start)[0]

    def u32(self) -> int:
        return int(self.unpack(_U32))

    def u64(self) -> int:
        return int(self.unpack(_U64))

    def string(self) -> str:
        size = self.u64()
        start = self.advance(size)
        return self.text(start, size)

    def text(self, start: int, size: int) -> str:
        try:
            return self.data[start : start + size].decode()
        except UnicodeDecodeError:
            raise self.error(f"the string at {start} is not UTF-8") from None

    def strings(self, count: int) -> list[str]:
        """`count` strings; vocabularies have 10^5 of them, hence the plain loop."""
        data, unpack, end = self.data, _U64.unpack_from, len(self.data)
        position = self.position
        if count * _U64.size > end - position:
            raise self.error(f"truncated: {count} strings expected at {position}")
        values = []
        for _ in range(count):
            start = position + _U64.size
            if start > end:
                raise self.error(f"truncated: a string expected at {position}")
            (size,) = unpack(data, position)
            position = start + size
            if position > end:
                raise self.error(f"truncated: {size} bytes of text expected at {start}")
            values.append(self.text(start, size))
        self.position = position
        return values

    def numbers(self, kind: int, count: int) -> list[Any]:
        dtype = np.dtype(SCALARS[kind])
        start = self.advance(count * dtype.itemsize)
        return np.frombuffer(self.data, dtype, count, start).tolist()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.numbers(kind, 1)[0]
        if kind != ARRAY:
            raise self.error(f"unknown metadata type {kind}")
        element, count = self.u32(), self.u64()
        if element == STRING:
            return self.strings(count)
        if element in SCALARS:
            return self.numbers(element, count)
        raise self.error(f"arrays of metadata type {element} are not supported")


_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class GGUFFile:
    """A GGUF file, mapped read-only. Raises CheckpointError for anything that is not one.

    A model in several files is opened by its first, which has the metadata.
    """

    def __init__(self, path: Path, part: int = 0) -> None:
        self.path = path
        self.paths = [path]
        """Of all parts."""
        self._part = part
        self._map = _map(path)
        self._maps = [self._map]
        cursor = _Cursor(self._map, path)
        tensor_count, metadata_count = _header(cursor)
        self.metadata: dict[str, Any] = _unique(cursor, metadata_count, "key", _entry)
        infos = _unique(cursor, tensor_count, "tensor", _tensor_info)
        data_start = _aligned(cursor.position, self._alignment())
        self.tensors: dict[str, GGUFTensor] = {
            name: self._tensor(name, data_start, *info) for name, info in infos.items()
        }
        if part == 0:
            self._open_parts()

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, [nbytes] uint8, read-only, without a copy."""
        tensor = self.tensors[name]
        return np.frombuffer(self._maps[tensor.part], np.uint8, tensor.nbytes, tensor.offset)

    def _open_parts(self) -> None:
        """The other files of a split model, beside this one; they bring their tensors."""
        count = self.metadata.get("split.count", 1)
        if not isinstance(count, int) or not 0 <= count <= MAX_PARTS:
            raise CheckpointError(f"{self.path}: split.count is {count!r}")
        for number in range(1, count):
            suffix = f"-00001-of-{count:05}.gguf"
            if not self.path.name.endswith(suffix):
                raise CheckpointError(
                    f"{self.path}: is one of {count} parts; open the first, named *{suffix}"
                )
            name = self.path.name.removesuffix(suffix) + f"-{number + 1:05}-of-{count:05}.gguf"
            part = GGUFFile(self.path.with_name(name), number)
            if twice := self.tensors.keys() & part.tensors.keys():
                raise CheckpointError(f"{part.path}: tensor {min(twice)!r} is in another part too")
            self.tensors |= part.tensors
            self.paths.append(part.path)
            self._maps.append(part._map)

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise CheckpointError(
                f"{self.path}: general.alignment is {alignment!r}, allowed is a multiple of 8"
            )
        return alignment

    def _tensor(
        self, name: str, data_start: int, dimensions: list[int], number: int, offset: int
    ) -> GGUFTensor:
        where = f"{self.path}: tensor {name!r}"
        kind = GGML_TYPES.get(number)
        if kind is None:
            raise CheckpointError(f"{where} has unknown type {number}")
        if not 1 <= len(dimensions) <= MAX_DIMENSIONS or 0 in dimensions:
            raise CheckpointError(f"{where} has dimensions {dimensions}")
        if dimensions[0] % kind.block_size:
            raise CheckpointError(
                f"{where} has rows of {dimensions[0]} elements, {kind.name} needs a multiple of "
                f"{kind.block_size}"
            )
        nbytes = math.prod(dimensions) // kind.block_size * kind.block_bytes
        start = data_start + offset
        if start + nbytes > len(self._map):
            raise CheckpointError(
                f"{where} ends at byte {start + nbytes}, the file has {len(self._map)}"
            )
        if start % self._alignment():
            raise CheckpointError(f"{where} begins at byte {start}, which is not aligned")
        return GGUFTensor(name, kind, tuple(reversed(dimensions)), start, nbytes, self._part)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as a GGUF file: {error}") from None


def _header(cursor: _Cursor) -> tuple[int, int]:
    """Number of tensors and of metadata entries."""
    start = cursor.advance(len(MAGIC))
    if cursor.data[start : cursor.position] != MAGIC:
        raise cursor.error("not a GGUF file (wrong magic number)")
    version = cursor.u32()
    if version not in VERSIONS:
        raise cursor.error(f"GGUF version {version} is not supported, only {VERSIONS}")
    return cursor.u64(), cursor.u64()


def _entry(cursor: _Cursor) -> Any:
    return cursor.value(cursor.u32())


def _tensor_info(cursor: _Cursor) -> tuple[list[int], int, int]:
    """Dimensions as in the file, type number, offset in the data section."""
    rank = cursor.u32()
    if rank > MAX_DIMENSIONS:
        raise cursor.error(f"a tensor has {rank} dimensions, at most {MAX_DIMENSIONS} are allowed")
    dimensions = [cursor.u64() for _ in range(rank)]
    return dimensions, cursor.u32(), cursor.u64()


def _unique(
    cursor: _Cursor, count: int, noun: str, read: Callable[[_Cursor], Any]
) -> dict[str, Any]:
    """`count` named records; a name that occurs twice is an error."""
    records: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.string()
        if name in records:
            raise cursor.error(f"{noun} {name!r} occurs twice")
        records[name] = read(cursor)
    return records


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
