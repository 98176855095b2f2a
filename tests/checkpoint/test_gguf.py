"""Oracle: the gguf package's reader and writer. Hostile files: every cut, any changed bytes."""

import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.checkpoint.embedded import embedded_model
from headrace.checkpoint.ggml import GGMLType
from headrace.checkpoint.gguf import GGUFFile
from headrace.errors import CheckpointError
from tests.checkpoint.gguf_files import write_gguf


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return write_gguf(path, tensors={"blk.0.w": weights, "blk.0.h": weights.astype(np.float16)})


@pytest.mark.slow
def test_embedded_model_reads_as_the_gguf_package_reads_it() -> None:
    path = embedded_model()
    file, reference = GGUFFile(path), gguf.GGUFReader(path)
    contents = {k: f.contents() for k, f in reference.fields.items() if not k.startswith("GGUF.")}
    assert file.metadata == contents
    assert list(file.tensors) == [tensor.name for tensor in reference.tensors]
    for expected in reference.tensors:
        tensor = file.tensors[expected.name]
        assert tensor.type.name == expected.tensor_type.name
        assert tensor.shape == tuple(int(size) for size in reversed(expected.shape))
        assert np.array_equal(file.data(expected.name), expected.data.view(np.uint8).reshape(-1))


def test_large_vocabularies_are_read_fast() -> None:
    path = embedded_model()
    started = time.process_time()
    GGUFFile(path)
    assert time.process_time() - started < 0.5


def test_data_is_a_read_only_view(small: Path) -> None:
    data = GGUFFile(small).data("blk.0.w")
    assert data.dtype == np.uint8 and not data.flags.owndata and not data.flags.writeable


def test_every_truncation_is_an_error(small: Path, tmp_path: Path) -> None:
    content = small.read_bytes()
    path = tmp_path / "cut.gguf"
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            GGUFFile(path)


@settings(max_examples=300)
@given(data=st.data())
def test_changed_bytes_never_escape_as_another_error(small: Path, data: st.DataObject) -> None:
    content = bytearray(small.read_bytes())
    positions = st.integers(0, len(content) - 9)
    edits = st.lists(
        st.tuples(positions, st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
    )
    for position, replacement in data.draw(edits):
        content[position : position + len(replacement)] = replacement
    path = small.parent / "changed.gguf"
    path.write_bytes(content)
    try:
        file = GGUFFile(path)
    except CheckpointError:
        return
    for name, tensor in file.tensors.items():
        assert len(file.data(name)) == tensor.nbytes


def header(version: int = 3, tensors: int = 0, entries: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def tensor_info(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"ggml" + bytes(40), "magic"),
        (header(version=1), "version 1"),
        (header(version=3 << 24), "version"),
        (header(entries=1 << 60), "truncated"),
        (header(entries=1) + string("k") + struct.pack("<I", 13), "unknown metadata type 13"),
        (header(entries=1) + string("k") + struct.pack("<IIQ", 9, 8, 1 << 61), "strings expected"),
        (header(entries=1) + string("k") + struct.pack("<IIQ", 9, 4, 1 << 61), "truncated"),
        (header(entries=1) + string("k") + struct.pack("<IIQ", 9, 9, 1), "not supported"),
        (header(entries=1) + struct.pack("<Q", 1) + b"\xff" + bytes(9), "UTF-8"),
        (header(entries=2) + (string("k") + struct.pack("<IB", 0, 1)) * 2, "'k' occurs twice"),
        (header(tensors=1) + tensor_info("w", (1 << 62, 1 << 62), 0, 0), "ends at byte"),
        (header(tensors=1) + tensor_info("w", (4,), 0, 1 << 62), "ends at byte"),
        (header(tensors=1) + tensor_info("w", (0,), 0, 0), "dimensions"),
        (header(tensors=1) + tensor_info("w", (), 0, 0), "dimensions"),
        (header(tensors=1) + tensor_info("w", (33,), 8, 0), "multiple of 32"),
        (header(tensors=1) + tensor_info("w", (4,), 4, 0), "unknown type 4"),
        (header(tensors=1) + tensor_info("w", (1,) * 5, 0, 0), "5 dimensions"),
        (header(tensors=1) + tensor_info("w", (4,), 0, 4) + bytes(64), "aligned"),
        (
            header(entries=1) + string("general.alignment") + struct.pack("<II", 4, 0),
            "general.alignment",
        ),
    ],
)
def test_hostile_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        GGUFFile(path)


def test_quantized_tensor_keeps_its_blocks(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    blocks = gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    path = tmp_path / "q8.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(path)
    assert file.tensors["w"].type is GGMLType.Q8_0
    assert file.tensors["w"].shape == (3, 64)
    assert np.array_equal(file.data("w"), blocks.reshape(-1))
