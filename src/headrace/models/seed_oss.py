"""Seed-OSS: Llama with biases on query, key and value, and on demand on the attention's output."""

from dataclasses import replace
from typing import Any

from headrace.models.family import decoder_spec, read_config
from headrace.models.llama import LlamaConfig, layer_spec
from headrace.models.spec import DecoderSpec


class SeedOssConfig(LlamaConfig, kw_only=True):
    """What Seed-OSS adds to Llama's fields."""

    attention_bias: bool = True
    attention_out_bias: bool = False


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    seed = read_config(SeedOssConfig, config)
    layer = layer_spec(seed)
    attention = replace(layer.attention, output_bias=seed.attention_out_bias)
    return decoder_spec(seed, replace(layer, attention=attention))
