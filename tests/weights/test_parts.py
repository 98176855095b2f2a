"""Parts of matrices, against the same parts of the whole."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from headrace.errors import CheckpointError
from headrace.weights import Part, Slice
from headrace.weights.dequantize import dequantize
from tests.weights.test_gguf import write

ROWS, COLUMNS = Slice(1, 2, 4), Slice(2, 3, 3)
"""Of a matrix [64, 96]: rows 16 to 32, columns 64 to 96."""


@pytest.mark.parametrize(("size", "expected"), [(9, slice(3, 6)), (36, slice(12, 24))])
def test_a_share_scales(size: int, expected: slice) -> None:
    assert Slice(1, 2, 3).of(size) == expected
    assert Slice(1, 2, 3).count(size) == size // 3
    with pytest.raises(CheckpointError, match="--num-shard"):
        Slice(1, 2, 3).of(size + 1)


def test_what_is_cut_off_is_not_touched() -> None:
    whole = torch.randn(64, 96)
    part = Part(ROWS, COLUMNS).of(whole)
    assert torch.equal(part, whole[16:32, 64:])
    assert part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


@pytest.mark.parametrize("columns", [Slice.whole(1), Slice(1, 2, 3)])
def test_blocks_are_cut_as_blocks(tmp_path: Path, columns: Slice) -> None:
    values = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
    stored = write(tmp_path / "a.gguf", "qwen2", **{"blk.0.ffn_up.weight": (blocks, "Q4_1")})
    name = "model.layers.0.mlp.up_proj.weight"
    raw, whole = stored.raw(name), stored.get(name)
    part = Part(ROWS, columns).of_blocks(raw)
    assert part.shape == (16, columns.count(96))
    assert torch.equal(dequantize(part.type, part.data), whole[16:32, columns.of(96)])
    with pytest.raises(CheckpointError, match="3 features or blocks"):
        Part(ROWS, Slice(0, 1, 2)).of_blocks(raw)
