"""Qwen2 and Qwen2.5: biases on query, key and value; a window in the later layers on demand."""

from typing import Any, Literal

from headrace.errors import StartupError
from headrace.models.spec import DecoderSpec, FamilyConfig, Positive, decoder_spec, read_config


class Qwen2Config(FamilyConfig, kw_only=True):
    """What the Qwen families add to the shared fields."""

    use_sliding_window: bool = False
    sliding_window: Positive | None = None
    max_window_layers: int = 28
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None


def layer_windows(config: Qwen2Config) -> list[int | None]:
    """One window per layer: by `layer_types`, or from layer `max_window_layers` on."""
    num_layers = config.num_hidden_layers
    window = config.sliding_window if config.use_sliding_window else None
    types = config.layer_types
    if types is None:
        first = config.max_window_layers
        return [window if layer >= first else None for layer in range(num_layers)]
    if len(types) != num_layers:
        raise StartupError(
            f"config.json: layer_types has {len(types)} entries for {num_layers} layers"
        )
    return [window if kind == "sliding_attention" else None for kind in types]


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    qwen = read_config(Qwen2Config, config)
    return decoder_spec(qwen, windows=layer_windows(qwen), qkv_bias=True)
