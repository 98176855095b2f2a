"""Reading tensors out of safetensors shards."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from headrace.errors import CheckpointError
from headrace.weights.safetensors import SafetensorsWeights


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    save_file({"a": torch.arange(6.0).view(2, 3)}, paths[0])
    save_file({"b": torch.ones(4, dtype=torch.bfloat16)}, paths[1])
    return paths


def test_names_are_found_in_any_shard(shards: list[Path]) -> None:
    weights = SafetensorsWeights(shards)
    assert weights.has("a") and weights.has("b") and not weights.has("c")
    assert torch.equal(weights.get("a"), torch.arange(6.0).view(2, 3))
    assert weights.get("b").dtype == torch.bfloat16


def test_missing_tensor_is_named(shards: list[Path]) -> None:
    with pytest.raises(CheckpointError, match="tensor c "):
        SafetensorsWeights(shards).get("c")


@pytest.mark.parametrize("kept", [0, 7, 20, -3])
def test_damaged_file_is_named(shards: list[Path], kept: int) -> None:
    shards[0].write_bytes(shards[0].read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="1.safetensors"):
        SafetensorsWeights(shards)


def test_a_file_cut_within_a_tensor_says_which(shards: list[Path]) -> None:
    whole = shards[0].read_bytes()
    shards[0].write_bytes(whole[:-3])
    message = rf"tensor a: expected to end at byte {len(whole)}, found .* at {len(whole) - 3}"
    with pytest.raises(CheckpointError, match=message):
        SafetensorsWeights(shards)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone.safetensors"):
        SafetensorsWeights([tmp_path / "gone.safetensors"])
