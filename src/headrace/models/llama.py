"""Llama 1 to 3 and the many models of their shape (SmolLM2, Yi, TinyLlama, ...)."""

from dataclasses import replace
from typing import Any

from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    mlp_spec,
    read_config,
    rms_norm,
)
from headrace.models.spec import DecoderSpec, LayerSpec


class LlamaConfig(FamilyConfig, kw_only=True):
    """What Llama adds to the shared fields."""

    attention_bias: bool = False
    mlp_bias: bool = False


def layer_spec(llama: LlamaConfig) -> LayerSpec:
    """Shared with the families that differ in other things."""
    bias = llama.attention_bias
    return LayerSpec(
        attention=replace(attention_spec(llama), qkv_bias=bias, output_bias=bias),
        mlp=replace(mlp_spec(llama), bias=llama.mlp_bias),
        norm=rms_norm(llama),
    )


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    llama = read_config(LlamaConfig, config)
    return decoder_spec(llama, layer_spec(llama))
