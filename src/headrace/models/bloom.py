"""BLOOM: ALiBi in place of positions, and a norm of the embeddings."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import AttentionSpec
from headrace.layers.embedding import EmbeddingSpec
from headrace.models.family import (
    FamilyConfig,
    alibi_slopes,
    decoder_spec,
    gpt_layer,
    read_config,
    refuse,
)
from headrace.models.fields import Positive
from headrace.models.sources import grouped_qkv
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming


class BloomConfig(FamilyConfig, kw_only=True):
    """Where BLOOM has other defaults than the shared fields."""

    hidden_act: str = "gelu_new"
    max_position_embeddings: Positive = 2048
    """The length of training; ALiBi itself knows no limit."""


def bloom_naming(attention: AttentionSpec) -> Naming:
    """Falcon has the same names."""
    return Naming(
        base="transformer.",
        layers="h.",
        inner={
            **grouped_qkv("self_attention.query_key_value", attention),
            "self_attn.o_proj": "self_attention.dense",
            "mlp.up_proj": "mlp.dense_h_to_4h",
            "mlp.down_proj": "mlp.dense_4h_to_h",
        },
        outer={
            "embed_tokens": "word_embeddings",
            "embed_norm": "word_embeddings_layernorm",
            "norm": "ln_f",
        },
    )


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    refuse(config, "apply_residual_connection_post_layernorm")
    bloom = read_config(BloomConfig, config)
    layer, slopes = gpt_layer(bloom), alibi_slopes(bloom.num_attention_heads)
    attention = replace(layer.attention, rope=None, alibi_slopes=slopes)
    decoder = decoder_spec(bloom, replace(layer, attention=attention))
    embedding = EmbeddingSpec(size=bloom.hidden_size, norm=layer.norm)
    return replace(decoder, embedding=embedding, naming=bloom_naming(attention))
