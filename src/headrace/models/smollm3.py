"""SmolLM3: Llama where every fourth layer does not rotate."""

from typing import Any

from headrace.models.family import decoder_spec, layer_rotations, layer_windows, read_config
from headrace.models.fields import LayerTypes, Positive
from headrace.models.llama import LlamaConfig, layer_spec
from headrace.models.spec import DecoderSpec, with_ropes, with_windows


class SmolLM3Config(LlamaConfig, kw_only=True):
    """What SmolLM3 adds to Llama's fields."""

    no_rope_layers: list[int] | None = None
    """1 for each layer that rotates, 0 for one that does not."""
    no_rope_layer_interval: Positive = 4
    use_sliding_window: bool = False
    sliding_window: Positive | None = None
    layer_types: LayerTypes | None = None


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    smol = read_config(SmolLM3Config, config)
    layer, count = layer_spec(smol), smol.num_hidden_layers
    rotations = layer_rotations(smol, smol.no_rope_layers, smol.no_rope_layer_interval)
    layers = with_ropes([layer] * count, [layer.attention.rope if r else None for r in rotations])
    if smol.use_sliding_window and smol.layer_types is not None:
        windows = layer_windows(smol, smol.layer_types, smol.sliding_window)
        layers = with_windows(layers, windows)
    return decoder_spec(smol, layers)
