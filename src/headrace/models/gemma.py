"""Gemma 1: norms stored as differences from 1, scaled embeddings, gated GELU."""

from dataclasses import replace
from typing import Any

from headrace.layers.embedding import EmbeddingSpec
from headrace.layers.mlp import MLPSpec
from headrace.layers.norm import NormSpec
from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    mlp_spec,
    read_config,
    refuse,
)
from headrace.models.spec import DecoderSpec, LayerSpec


class GemmaConfig(FamilyConfig, kw_only=True):
    """What Gemma adds to the shared fields."""

    attention_bias: bool = False
    hidden_act: str = "gelu_pytorch_tanh"


def gemma_layer(config: dict[str, Any], gemma: GemmaConfig) -> LayerSpec:
    """A layer of Gemma 1, on which the later ones build."""
    refuse(config, "use_bidirectional_attention")
    bias = gemma.attention_bias
    return LayerSpec(
        attention=replace(attention_spec(gemma), qkv_bias=bias, output_bias=bias),
        mlp=gemma_mlp(gemma),
        norm=NormSpec(epsilon=gemma.rms_norm_eps, offset=1.0),
    )


def gemma_mlp(gemma: GemmaConfig) -> MLPSpec:
    """The first configs say "gelu" and mean its approximation."""
    mlp = mlp_spec(gemma)
    return replace(mlp, activation="gelu_pytorch_tanh") if mlp.activation == "gelu" else mlp


def gemma_embedding(gemma: GemmaConfig) -> EmbeddingSpec:
    return EmbeddingSpec(size=gemma.hidden_size, scale=gemma.hidden_size**0.5)


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    gemma = read_config(GemmaConfig, config)
    decoder = decoder_spec(gemma, gemma_layer(config, gemma))
    return replace(decoder, embedding=gemma_embedding(gemma))
