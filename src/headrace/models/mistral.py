"""Mistral: Llama with a sliding window over all layers (in its first version)."""

from typing import Any

from headrace.models.family import (
    decoder_spec,
    read_config,
)
from headrace.models.fields import Positive
from headrace.models.llama import LlamaConfig, layer_spec
from headrace.models.spec import DecoderSpec, with_windows


class MistralConfig(LlamaConfig, kw_only=True):
    """What Mistral adds to Llama's fields."""

    sliding_window: Positive | None = None


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    mistral = read_config(MistralConfig, config)
    layers = [layer_spec(mistral)] * mistral.num_hidden_layers
    return decoder_spec(mistral, with_windows(layers, [mistral.sliding_window] * len(layers)))
