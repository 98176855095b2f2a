"""GPT-OSS: biases everywhere, sinks, every other layer under a window, clamped SwiGLU experts."""

from dataclasses import replace
from typing import Any

from headrace.errors import StartupError
from headrace.layers.activation import CLAMPED_SWIGLU, SWIGLU_ALPHA, SWIGLU_LIMIT
from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    layer_windows,
    read_config,
    rms_norm,
)
from headrace.models.fields import LayerTypes, Positive
from headrace.models.mixture import MoEConfig, moe_spec
from headrace.models.sources import transposed_experts
from headrace.models.spec import DecoderSpec, LayerSpec, with_windows
from headrace.weights import Naming


class GptOssConfig(FamilyConfig, kw_only=True):
    """What GPT-OSS adds to the shared fields."""

    layer_types: LayerTypes
    sliding_window: Positive
    attention_bias: bool = True
    swiglu_alpha: float = SWIGLU_ALPHA
    swiglu_limit: float = SWIGLU_LIMIT


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    oss, moe = read_config(GptOssConfig, config), read_config(MoEConfig, config)
    if (oss.swiglu_alpha, oss.swiglu_limit) != (SWIGLU_ALPHA, SWIGLU_LIMIT):
        raise StartupError(
            f"config.json: swiglu_alpha and swiglu_limit are {oss.swiglu_alpha} and "
            f"{oss.swiglu_limit}; supported are {SWIGLU_ALPHA} and {SWIGLU_LIMIT}"
        )
    mixture, bias = moe_spec(oss, moe), oss.attention_bias
    expert = replace(mixture.expert, activation=CLAMPED_SWIGLU, bias=True)
    router = replace(mixture.router, is_normalized=True, has_bias=True)
    mixture = replace(mixture, expert=expert, router=router)
    layer = LayerSpec(
        attention=replace(attention_spec(oss), qkv_bias=bias, output_bias=bias, has_sinks=True),
        mlp=mixture,
        norm=rms_norm(oss),
    )
    layers = [layer] * oss.num_hidden_layers
    windows = layer_windows(oss, oss.layer_types, oss.sliding_window)
    experts = transposed_experts("mlp.experts", mixture, is_interleaved=True)
    return replace(decoder_spec(oss, with_windows(layers, windows)), naming=Naming(inner=experts))
