"""Cohere's Command R: attention and MLP side by side behind one norm without bias, scaled logits,
neighbouring elements rotate."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import HeadNormSpec
from headrace.layers.norm import NormSpec
from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    mlp_spec,
    read_config,
)
from headrace.models.fields import PositiveFloat
from headrace.models.sources import interleaved_head_norms, interleaved_qk
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming


class CohereConfig(FamilyConfig, kw_only=True):
    """What Cohere adds to the shared fields."""

    attention_bias: bool = False
    logit_scale: PositiveFloat = 0.0625
    use_qk_norm: bool = False


def cohere_layer(cohere: CohereConfig) -> LayerSpec:
    norm = NormSpec(epsilon=cohere.layer_norm_eps, kind="layer")
    bias, head_norm = cohere.attention_bias, None
    if cohere.use_qk_norm:
        head_norm = HeadNormSpec(norm=norm, has_weight_per_head=True)
    attention = replace(
        attention_spec(cohere), qkv_bias=bias, output_bias=bias, head_norm=head_norm
    )
    return LayerSpec(attention=attention, mlp=mlp_spec(cohere), norm=norm, is_parallel=True)


def cohere_decoder(
    cohere: CohereConfig, layers: LayerSpec | list[LayerSpec], naming: Naming
) -> DecoderSpec:
    decoder = decoder_spec(cohere, layers)
    norm = NormSpec(epsilon=cohere.layer_norm_eps, kind="layer", scale=cohere.logit_scale)
    return replace(decoder, norm=norm, naming=naming)


def cohere_naming(layer: LayerSpec) -> Naming:
    return Naming(
        inner={
            **interleaved_qk(layer.attention),
            **interleaved_head_norms(layer.attention),
            "post_attention_layernorm": "input_layernorm",
        }
    )


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    cohere = read_config(CohereConfig, config)
    layer = cohere_layer(cohere)
    return cohere_decoder(cohere, layer, cohere_naming(layer))
