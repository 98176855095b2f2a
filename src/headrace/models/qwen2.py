"""Qwen2 and Qwen2.5: biases on query, key and value; a window in the later layers on demand."""

from dataclasses import replace
from typing import Any

from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    layer_windows,
    mlp_spec,
    read_config,
    rms_norm,
)
from headrace.models.fields import LayerTypes, Natural
from headrace.models.spec import DecoderSpec, LayerSpec, with_windows


class Qwen2Config(FamilyConfig, kw_only=True):
    """What the Qwen families add to the shared fields."""

    use_sliding_window: bool = False
    sliding_window: Natural | None = None
    """0, too, stands for none."""
    max_window_layers: int = 28
    layer_types: LayerTypes | None = None


def qwen_windows(config: Qwen2Config) -> list[int | None]:
    """One window per layer: by `layer_types`, or from layer `max_window_layers` on."""
    window = (config.sliding_window or None) if config.use_sliding_window else None
    if config.layer_types is not None:
        return layer_windows(config, config.layer_types, window)
    first = config.max_window_layers
    return [window if layer >= first else None for layer in range(config.num_hidden_layers)]


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    qwen = read_config(Qwen2Config, config)
    layer = LayerSpec(
        attention=replace(attention_spec(qwen), qkv_bias=True),
        mlp=mlp_spec(qwen),
        norm=rms_norm(qwen),
    )
    layers = [layer] * qwen.num_hidden_layers
    return decoder_spec(qwen, with_windows(layers, qwen_windows(qwen)))
