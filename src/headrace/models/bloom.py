"""BLOOM: ALiBi in place of positions, and a norm of the embeddings."""

from dataclasses import replace
from typing import Any

from headrace.layers.embedding import EmbeddingSpec
from headrace.models.family import (
    FamilyConfig,
    alibi_slopes,
    attention_spec,
    decoder_spec,
    layer_norm,
    mlp_spec,
    read_config,
    refuse,
)
from headrace.models.fields import Positive
from headrace.models.sources import grouped_qkv
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming


class BloomConfig(FamilyConfig, kw_only=True):
    """Where BLOOM has other defaults than the shared fields."""

    hidden_act: str = "gelu_new"
    max_position_embeddings: Positive = 2048
    """The length of training; ALiBi itself knows no limit."""


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    refuse(config, "apply_residual_connection_post_layernorm")
    bloom = read_config(BloomConfig, config)
    attention = replace(
        attention_spec(bloom),
        rope=None,
        alibi_slopes=alibi_slopes(bloom.num_attention_heads),
        qkv_bias=True,
        output_bias=True,
    )
    mlp = replace(mlp_spec(bloom), is_gated=False, bias=True)
    norm = layer_norm(bloom)
    naming = Naming(
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
    decoder = decoder_spec(bloom, LayerSpec(attention=attention, mlp=mlp, norm=norm))
    embedding = EmbeddingSpec(size=bloom.hidden_size, norm=norm)
    return replace(decoder, embedding=embedding, naming=naming)
