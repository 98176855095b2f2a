"""Granite: Llama with multipliers of embeddings, scores, residuals and logits."""

from dataclasses import replace
from typing import Any

from headrace.layers.embedding import EmbeddingSpec
from headrace.layers.norm import NormSpec
from headrace.models.family import (
    decoder_spec,
    read_config,
)
from headrace.models.fields import PositiveFloat
from headrace.models.llama import LlamaConfig, layer_spec
from headrace.models.spec import DecoderSpec, LayerSpec


class GraniteConfig(LlamaConfig, kw_only=True):
    """What Granite adds to Llama's fields."""

    embedding_multiplier: PositiveFloat = 1.0
    attention_multiplier: PositiveFloat = 1.0
    residual_multiplier: PositiveFloat = 1.0
    logits_scaling: PositiveFloat = 1.0


def granite_layer(granite: GraniteConfig) -> LayerSpec:
    """Norms for a residual stream divided by `residual_multiplier`: see `granite_decoder`."""
    layer = layer_spec(granite)
    epsilon = granite.rms_norm_eps / granite.residual_multiplier**2
    attention = replace(layer.attention, scale=granite.attention_multiplier)
    return replace(layer, attention=attention, norm=NormSpec(epsilon=epsilon))


def granite_decoder(granite: GraniteConfig, layers: LayerSpec) -> DecoderSpec:
    """The residual stream divided by its multiplier: then what is added needs no factor, and the
    norms, which are all that reads the stream, take the factor out with their epsilon."""
    decoder = decoder_spec(granite, layers)
    scale = granite.embedding_multiplier / granite.residual_multiplier
    return replace(
        decoder,
        embedding=EmbeddingSpec(size=granite.hidden_size, scale=scale),
        norm=replace(decoder.layers[-1].norm, scale=1 / granite.logits_scaling),
    )


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    granite = read_config(GraniteConfig, config)
    return granite_decoder(granite, granite_layer(granite))
