"""Random weights: the shapes of real models, the same in every run."""

import pytest
import torch
import transformers

from headrace.errors import CheckpointError
from headrace.weights.dummy import DummyWeights
from tests.models.checkpoints import BASE


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM",
                                          "Qwen3ForCausalLM"])  # fmt: skip
def test_shapes_are_those_of_transformers(architecture: str) -> None:
    model_class = getattr(transformers, architecture)
    model = model_class(model_class.config_class(**BASE))
    weights = DummyWeights(model.config.to_dict())
    for name, parameter in model.named_parameters():
        assert weights.has(name)
        assert weights.get(name).shape == parameter.shape, name


def test_values_are_reproducible_and_differ_between_names() -> None:
    weights = DummyWeights(BASE)
    query = weights.get("model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(query, DummyWeights(BASE).get("model.layers.0.self_attn.q_proj.weight"))
    assert not torch.equal(query, weights.get("model.layers.1.self_attn.q_proj.weight"))
    assert 0.015 < query.std() < 0.025
    assert torch.equal(weights.get("model.norm.weight"), torch.ones(64))


def test_unknown_name_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="router"):
        DummyWeights(BASE).get("model.layers.0.mlp.router.weight")
