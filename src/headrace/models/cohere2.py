"""Cohere's Command R7B and A: every fourth layer sees all and does not rotate."""

from typing import Any

from headrace.models.cohere import CohereConfig, cohere_decoder, cohere_layer, cohere_naming
from headrace.models.family import (
    every_nth_full,
    layer_windows,
    read_config,
)
from headrace.models.fields import LayerTypes, Positive
from headrace.models.spec import DecoderSpec, with_ropes, with_windows


class Cohere2Config(CohereConfig, kw_only=True):
    """What Cohere 2 adds to Cohere's fields."""

    sliding_window: Positive | None = 4096
    sliding_window_pattern: Positive = 4
    layer_types: LayerTypes | None = None


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    cohere = read_config(Cohere2Config, config)
    layer = cohere_layer(cohere)
    types = cohere.layer_types or every_nth_full(cohere, cohere.sliding_window_pattern)
    windows = layer_windows(cohere, types, cohere.sliding_window)
    ropes = [None if window is None else layer.attention.rope for window in windows]
    layers = with_ropes([layer] * cohere.num_hidden_layers, ropes)
    return cohere_decoder(cohere, with_windows(layers, windows), cohere_naming(layer))
