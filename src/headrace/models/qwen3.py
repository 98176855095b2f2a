"""Qwen3: queries and keys are normalised per head, in place of Qwen2's biases."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import HeadNormSpec
from headrace.models.family import attention_spec, decoder_spec, mlp_spec, read_config, rms_norm
from headrace.models.qwen2 import Qwen2Config, qwen_windows
from headrace.models.spec import DecoderSpec, LayerSpec, with_windows


class Qwen3Config(Qwen2Config, kw_only=True):
    """What Qwen3 adds to Qwen2's fields."""

    attention_bias: bool = False


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    qwen = read_config(Qwen3Config, config)
    attention = replace(
        attention_spec(qwen),
        qkv_bias=qwen.attention_bias,
        output_bias=qwen.attention_bias,
        head_norm=HeadNormSpec(norm=rms_norm(qwen)),
    )
    layer = LayerSpec(attention=attention, mlp=mlp_spec(qwen), norm=rms_norm(qwen))
    layers = [layer] * qwen.num_hidden_layers
    return decoder_spec(qwen, with_windows(layers, qwen_windows(qwen)))
