"""Mixtral: Mistral with a mixture of experts in each layer."""

from dataclasses import replace
from typing import Any

from headrace.models import mistral
from headrace.models.family import read_config
from headrace.models.mistral import MistralConfig
from headrace.models.mixture import MoEConfig, moe_spec, with_mixtures
from headrace.models.sources import separate_experts
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    dense, moe = mistral.spec(config), read_config(MoEConfig, config)
    mixture = moe_spec(read_config(MistralConfig, config), moe)
    mixture = replace(mixture, router=replace(mixture.router, is_normalized=True))
    layers = with_mixtures(dense.layers, mixture, [True] * len(dense.layers))
    experts = separate_experts(
        "block_sparse_moe.experts", moe.num_experts, gate="w1", up="w3", down="w2"
    )
    naming = Naming(inner={"mlp.router": "block_sparse_moe.gate", **experts})
    return replace(dense, layers=tuple(layers), naming=naming)
