"""Falcon: one or few key heads, attention and MLP side by side; ALiBi in the smallest (RW)."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import AttentionSpec
from headrace.models.family import (
    FamilyConfig,
    alibi_slopes,
    attention_spec,
    decoder_spec,
    gpt_layer,
    read_config,
)
from headrace.models.sources import grouped_qkv
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming


class FalconConfig(FamilyConfig, kw_only=True):
    """What Falcon adds to the shared fields."""

    hidden_act: str = "gelu"
    max_position_embeddings: int = 2048
    alibi: bool = False
    bias: bool = False
    parallel_attn: bool = True
    multi_query: bool = True
    new_decoder_architecture: bool = False
    num_ln_in_parallel_attn: int | None = None


def falcon_attention(falcon: FalconConfig) -> AttentionSpec:
    if not falcon.new_decoder_architecture:
        falcon.num_key_value_heads = 1 if falcon.multi_query else falcon.num_attention_heads
    attention = attention_spec(falcon)
    if falcon.alibi:
        # Scaled together with the scores.
        slopes = tuple(s * attention.scale for s in alibi_slopes(attention.num_heads))
        attention = replace(attention, rope=None, alibi_slopes=slopes)
    return replace(attention, qkv_bias=falcon.bias, output_bias=falcon.bias)


def norm_names(falcon: FalconConfig) -> dict[str, str]:
    """The names of the norms of a layer: two, or one that attention and MLP share."""
    is_new = falcon.new_decoder_architecture
    if is_new and falcon.num_ln_in_parallel_attn in (None, 2):
        return {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"}
    is_shared = is_new or falcon.parallel_attn
    return {"post_attention_layernorm": "input_layernorm"} if is_shared else {}


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    falcon = read_config(FalconConfig, config)
    attention = falcon_attention(falcon)
    layer = replace(
        gpt_layer(falcon, bias=falcon.bias),
        attention=attention,
        is_parallel=falcon.parallel_attn or falcon.new_decoder_architecture,
    )
    naming = Naming(
        base="transformer.",
        layers="h.",
        inner={
            **grouped_qkv("self_attention.query_key_value", attention),
            "self_attn.o_proj": "self_attention.dense",
            "mlp.up_proj": "mlp.dense_h_to_4h",
            "mlp.down_proj": "mlp.dense_4h_to_h",
            **norm_names(falcon),
        },
        outer={"embed_tokens": "word_embeddings", "norm": "ln_f"},
    )
    return replace(decoder_spec(falcon, layer), naming=naming)
