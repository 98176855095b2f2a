"""OLMo 1: layer norms without parameters, queries, keys and values clamped on demand."""

from dataclasses import replace
from typing import Any

from headrace.layers.norm import NormSpec
from headrace.models.family import (
    decoder_spec,
    read_config,
)
from headrace.models.fields import PositiveFloat
from headrace.models.llama import LlamaConfig, layer_spec
from headrace.models.spec import DecoderSpec


class OlmoConfig(LlamaConfig, kw_only=True):
    """What OLMo adds to Llama's fields."""

    clip_qkv: PositiveFloat | None = None


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    olmo = read_config(OlmoConfig, config)
    layer = layer_spec(olmo)
    layer = replace(
        layer,
        attention=replace(layer.attention, clip=olmo.clip_qkv),
        norm=NormSpec(epsilon=1e-5, kind="layer", has_weight=False),
    )
    return decoder_spec(olmo, layer)
