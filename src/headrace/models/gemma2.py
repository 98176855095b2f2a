"""Gemma 2: norms around attention and MLP, soft caps, a window in every other layer."""

from dataclasses import replace
from typing import Any

from headrace.layers.embedding import HeadSpec
from headrace.models.family import (
    decoder_spec,
    every_nth_full,
    layer_windows,
    read_config,
)
from headrace.models.fields import LayerTypes, Positive, PositiveFloat
from headrace.models.gemma import GemmaConfig, gemma_embedding, gemma_layer
from headrace.models.spec import DecoderSpec, LayerSpec, with_windows
from headrace.weights import Naming

NAMING = Naming(
    inner={
        "attention_output_norm": "post_attention_layernorm",
        "post_attention_layernorm": "pre_feedforward_layernorm",
        "mlp_output_norm": "post_feedforward_layernorm",
    }
)


class Gemma2Config(GemmaConfig, kw_only=True):
    """What Gemma 2 adds to Gemma's fields."""

    query_pre_attn_scalar: PositiveFloat = 256
    sliding_window: Positive | None = 4096
    layer_types: LayerTypes | None = None
    final_logit_softcapping: PositiveFloat | None = 30.0
    attn_logit_softcapping: PositiveFloat | None = 50.0


def gemma2_layers(config: dict[str, Any], gemma: Gemma2Config, full_every: int) -> list[LayerSpec]:
    """The layers, every `full_every`-th of which has no window unless the config says where."""
    layer = gemma_layer(config, gemma)
    attention = replace(
        layer.attention,
        scale=gemma.query_pre_attn_scalar**-0.5,
        soft_cap=gemma.attn_logit_softcapping,
    )
    types = gemma.layer_types or every_nth_full(gemma, full_every)
    layers = [replace(layer, attention=attention, placement="both")] * gemma.num_hidden_layers
    return with_windows(layers, layer_windows(gemma, types, gemma.sliding_window))


def gemma2_decoder(gemma: Gemma2Config, layers: list[LayerSpec]) -> DecoderSpec:
    head = HeadSpec(is_tied=gemma.tie_word_embeddings, soft_cap=gemma.final_logit_softcapping)
    decoder = decoder_spec(gemma, layers)
    return replace(decoder, embedding=gemma_embedding(gemma), head=head, naming=NAMING)


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    gemma = read_config(Gemma2Config, config)
    return gemma2_decoder(gemma, gemma2_layers(config, gemma, full_every=2))
