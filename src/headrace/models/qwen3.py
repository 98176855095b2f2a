"""Qwen3: queries and keys are normalised per head, in place of Qwen2's biases."""

from typing import Any

from headrace.models.qwen2 import Qwen2Config, layer_windows
from headrace.models.spec import DecoderSpec, decoder_spec, read_config


class Qwen3Config(Qwen2Config, kw_only=True):
    """What Qwen3 adds to Qwen2's fields."""

    attention_bias: bool = False


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    qwen = read_config(Qwen3Config, config)
    return decoder_spec(
        qwen,
        windows=layer_windows(qwen),
        qkv_bias=qwen.attention_bias,
        output_bias=qwen.attention_bias,
        qk_norm=True,
    )
