"""Each block format against the gguf package's own dequantisation of random bytes."""

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize as reference

from headrace.checkpoint.ggml import GGMLType
from headrace.weights.dequantize import CHUNK_VALUES, UNPACK, dequantize


def random_rows(type: GGMLType, rows: int, columns: int, seed: int) -> np.ndarray:
    """Random blocks, their float16 scales made finite."""
    generator = np.random.default_rng(seed)
    raw = generator.integers(
        0, 256, (rows, columns // type.block_size, type.block_bytes), dtype=np.uint8
    )
    scales = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
    for start in scales.get(type.name, [0, 2] if type.name in ("Q4_1", "Q5_1") else [0]):
        halves = generator.normal(size=raw.shape[:2]).astype(np.float16)
        raw[:, :, start : start + 2] = halves[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("type", UNPACK)
def test_quantized_blocks_match_the_reference(type: GGMLType) -> None:
    raw = random_rows(type, rows=7, columns=1024, seed=type)
    expected = reference(raw, gguf.GGMLQuantizationType(type))
    actual = dequantize(type, torch.from_numpy(raw))
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_rows_longer_than_a_chunk() -> None:
    raw = random_rows(GGMLType.Q4_1, rows=3, columns=CHUNK_VALUES - 32, seed=0)
    whole = dequantize(GGMLType.Q4_1, torch.from_numpy(raw))
    for row, expected in zip(raw, whole, strict=True):
        alone = dequantize(GGMLType.Q4_1, torch.from_numpy(row[None]))
        assert torch.equal(alone[0], expected)
