"""Falcon: one or few key heads, attention and MLP side by side; ALiBi in the smallest (RW)."""

from dataclasses import replace
from typing import Any

from headrace.models.bloom import bloom_naming
from headrace.models.family import (
    FamilyConfig,
    alibi_slopes,
    decoder_spec,
    gpt_layer,
    read_config,
)
from headrace.models.spec import DecoderSpec


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
    if not falcon.new_decoder_architecture:
        falcon.num_key_value_heads = 1 if falcon.multi_query else falcon.num_attention_heads
    layer = gpt_layer(falcon, bias=falcon.bias)
    attention = layer.attention
    if falcon.alibi:
        # Scaled together with the scores.
        slopes = tuple(s * attention.scale for s in alibi_slopes(attention.num_heads))
        attention = replace(attention, rope=None, alibi_slopes=slopes)
    is_parallel = falcon.parallel_attn or falcon.new_decoder_architecture
    naming = bloom_naming(attention)
    return replace(
        decoder_spec(falcon, replace(layer, attention=attention, is_parallel=is_parallel)),
        naming=replace(naming, inner={**naming.inner, **norm_names(falcon)}),
    )
