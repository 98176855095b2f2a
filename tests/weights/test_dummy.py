"""Random weights: the same in every run. The shapes are the layers' matter."""

import pytest
import torch

from headrace.errors import CheckpointError
from headrace.weights.dummy import DummyWeights

MATRIX, NORM = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"


def dummy() -> DummyWeights:
    weights = DummyWeights(torch.bfloat16)
    weights.shapes |= {MATRIX: (64, 96), MATRIX.replace("0", "1"): (64, 96), NORM: (64,)}
    return weights


def test_values_are_reproducible_and_differ_between_names() -> None:
    weights = dummy()
    matrix = weights.get(MATRIX)
    assert matrix.dtype == torch.bfloat16 and matrix.shape == (64, 96)
    assert torch.equal(matrix, dummy().get(MATRIX))
    assert not torch.equal(matrix, weights.get(MATRIX.replace("0", "1")))
    assert 0.015 < matrix.float().std() < 0.025
    assert torch.equal(weights.get(NORM), torch.ones(64))


def test_unknown_name_is_an_error() -> None:
    assert dummy().has(MATRIX) and not dummy().has("router")
    with pytest.raises(CheckpointError, match="router"):
        dummy().get("router")
