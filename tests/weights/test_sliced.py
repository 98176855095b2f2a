"""Parts of tensors, against the same parts of the whole matrix."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.weights import Part, Slice, SlicedWeights
from headrace.weights.sliced import Axes
from tests.weights.test_gguf import write


class StoredWeights:
    """Tensors in memory."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = {f"layer.{suffix}": tensor for suffix, tensor in tensors.items()}

    def has(self, name: str) -> bool:
        return name in self.tensors

    def get(self, name: str) -> Tensor:
        return self.tensors[name]

    def raw(self, name: str) -> None:
        return None


def sliced(axes: Axes, rows: Slice, columns: Slice, **tensors: Tensor) -> SlicedWeights:
    return SlicedWeights(StoredWeights(**tensors), {"layer": Part(rows, columns)}, axes)


ROWS, COLUMNS = Slice(1, 2, 4), Slice(2, 3, 3)
"""Of a matrix [64, 96]: rows 16 to 32, columns 64 to 96."""


def test_a_plain_matrix_is_cut_without_a_copy() -> None:
    whole = torch.randn(64, 96)
    part = sliced({"weight": ("out", "in")}, ROWS, COLUMNS, weight=whole).get("layer.weight")
    assert torch.equal(part, whole[16:32, 64:])
    assert part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def test_packed_words_groups_and_single_numbers() -> None:
    """The layout of AWQ: words of eight outputs, scales of 32 inputs."""
    axes: Axes = {
        "qweight": ("in", "out"),
        "scales": ("in", "out"),
        "channel_scale": ("out", "in"),
        "tensor_scale": ("out", "in"),
        "shape": (None,),
    }
    words, scales = torch.randint(1 << 20, (96, 8)), torch.randn(3, 64)
    channels, number, shape = torch.randn(64, 1), torch.tensor(0.5), torch.tensor([64, 96])
    weights = sliced(
        axes, ROWS, COLUMNS, qweight=words, scales=scales, channel_scale=channels,
        tensor_scale=number, shape=shape,
    )  # fmt: skip
    assert torch.equal(weights.get("layer.qweight"), words[64:, 2:4])
    assert torch.equal(weights.get("layer.scales"), scales[2:, 16:32])
    assert torch.equal(weights.get("layer.channel_scale"), channels[16:32])
    assert weights.get("layer.tensor_scale") == 0.5
    assert torch.equal(weights.get("layer.shape"), shape)


def test_a_cut_within_a_group_is_refused() -> None:
    axes: Axes = {"scales": ("out", "in")}
    weights = sliced(axes, Slice.whole(1), Slice(1, 2, 2), scales=torch.randn(64, 3))
    with pytest.raises(CheckpointError, match=r"layer\.scales cannot be cut.*--num-shard"):
        weights.get("layer.scales")


def test_tensors_that_the_axes_do_not_name_are_hidden() -> None:
    weights = sliced({"weight": ("out", "in")}, ROWS, COLUMNS, g_idx=torch.arange(3))
    assert not weights.has("layer.g_idx")


@pytest.mark.parametrize("columns", [Slice.whole(1), Slice(1, 2, 3)])
def test_blocks_are_cut_as_blocks(tmp_path: Path, columns: Slice) -> None:
    values = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
    stored = write(tmp_path / "a.gguf", "qwen2", **{"blk.0.ffn_up.weight": (blocks, "Q4_1")})
    name = "model.layers.0.mlp.up_proj"
    weights = SlicedWeights(stored, {name: Part(ROWS, columns)}, {"weight": ("out", "in")})
    raw, whole = weights.raw(f"{name}.weight"), stored.get(f"{name}.weight")
    assert raw is not None
    assert raw.shape == (16, columns.count(96)) and raw.data.shape == (16, raw.shape[1] // 32 * 20)
    assert torch.equal(weights.get(f"{name}.weight"), whole[16:32, columns.of(96)])
    halves = SlicedWeights(stored, {name: Part(ROWS, Slice(0, 1, 2))}, {"weight": ("out", "in")})
    with pytest.raises(CheckpointError, match="cannot be cut"):
        halves.raw(f"{name}.weight")
