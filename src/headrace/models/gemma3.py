"""Gemma 3's text models: Gemma 2 with norms of queries and keys in place of soft caps, and a
rotary embedding of their own in the layers with a window."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import HeadNormSpec
from headrace.layers.norm import NormSpec
from headrace.layers.rope import RopeSpec
from headrace.models.family import (
    read_config,
)
from headrace.models.fields import PositiveFloat
from headrace.models.gemma2 import Gemma2Config, gemma2_decoder, gemma2_layers
from headrace.models.spec import DecoderSpec, LayerSpec


class Gemma3Config(Gemma2Config, kw_only=True):
    """What Gemma 3 adds to Gemma 2's fields, and where it has other defaults."""

    rope_local_base_freq: PositiveFloat = 10_000.0
    sliding_window_pattern: int = 6
    final_logit_softcapping: PositiveFloat | None = None
    attn_logit_softcapping: PositiveFloat | None = None


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    gemma = read_config(Gemma3Config, config)
    local = RopeSpec(rotary_size=gemma.head_dim, theta=gemma.rope_local_base_freq)
    head_norm = HeadNormSpec(norm=NormSpec(epsilon=gemma.rms_norm_eps, offset=1.0))

    def adapted(layer: LayerSpec) -> LayerSpec:
        rope = layer.attention.rope if layer.attention.window is None else local
        return replace(layer, attention=replace(layer.attention, rope=rope, head_norm=head_norm))

    layers = gemma2_layers(config, gemma, full_every=gemma.sliding_window_pattern)
    return gemma2_decoder(gemma, [adapted(layer) for layer in layers])
