"""OLMoE: joint norms of queries and of keys, and mixtures of experts."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import HeadNormSpec
from headrace.models.family import decoder_spec, read_config, refuse
from headrace.models.llama import LlamaConfig, layer_spec
from headrace.models.mixture import MoEConfig, moe_spec
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming

NAMING = Naming(inner={"mlp.router": "mlp.gate"})


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    refuse(config, "clip_qkv")
    olmoe, moe = read_config(LlamaConfig, config), read_config(MoEConfig, config)
    layer = layer_spec(olmoe)
    head_norm = HeadNormSpec(norm=layer.norm, is_joint=True)
    attention = replace(layer.attention, head_norm=head_norm)
    layer = replace(layer, attention=attention, mlp=moe_spec(olmoe, moe))
    return replace(decoder_spec(olmoe, layer), naming=NAMING)
