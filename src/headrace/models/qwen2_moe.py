"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with mixtures whose shared expert has a gate."""

from dataclasses import replace
from typing import Any

from headrace.layers.moe import MoESpec
from headrace.models import qwen2
from headrace.models.family import FamilyConfig, mlp_spec, read_config
from headrace.models.fields import Positive
from headrace.models.mixture import MoEConfig, moe_spec, with_mixtures
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming

NAMING = Naming(inner={"mlp.router": "mlp.gate"})


class QwenMoEConfig(MoEConfig, kw_only=True):
    """What the Qwen families add to the fields about experts."""

    decoder_sparse_step: Positive = 1
    mlp_only_layers: list[int] = []


class Qwen2MoEConfig(QwenMoEConfig, kw_only=True):
    """What Qwen2-MoE adds to those."""

    shared_expert_intermediate_size: Positive
    qkv_bias: bool = True


def qwen_mixtures(decoder: DecoderSpec, moe: QwenMoEConfig, mixture: MoESpec) -> DecoderSpec:
    """Every `decoder_sparse_step`-th layer gets the mixture, but those in `mlp_only_layers`."""
    is_sparse = [
        (layer + 1) % moe.decoder_sparse_step == 0 and layer not in moe.mlp_only_layers
        for layer in range(len(decoder.layers))
    ]
    layers = with_mixtures(decoder.layers, mixture, is_sparse)
    return replace(decoder, layers=tuple(layers), naming=NAMING)


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    qwen, moe = read_config(FamilyConfig, config), read_config(Qwen2MoEConfig, config)
    dense = qwen2.spec(config)
    layers = [
        replace(layer, attention=replace(layer.attention, qkv_bias=moe.qkv_bias))
        for layer in dense.layers
    ]
    shared = replace(mlp_spec(qwen), intermediate_size=moe.shared_expert_intermediate_size)
    mixture = replace(moe_spec(qwen, moe), shared=shared, has_shared_gate=True)
    return qwen_mixtures(replace(dense, layers=tuple(layers)), moe, mixture)
