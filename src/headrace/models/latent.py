"""What families with multi-head latent attention share: config.json's fields, and its spec."""

import math

import msgspec

from headrace.layers.latent import LatentAttentionSpec
from headrace.layers.norm import NormSpec
from headrace.layers.rope import RopeSpec
from headrace.models.family import FamilyConfig, family_rope
from headrace.models.fields import Positive

LATENT_NORM = NormSpec(epsilon=1e-6)


class LatentConfig(FamilyConfig, kw_only=True):
    """What latent attention adds to the shared fields."""

    q_lora_rank: Positive | None = None
    kv_lora_rank: Positive
    qk_nope_head_dim: Positive
    qk_rope_head_dim: Positive
    v_head_dim: Positive
    attention_bias: bool = False
    rope_interleave: bool = True


def latent_attention(config: LatentConfig) -> LatentAttentionSpec:
    rope = family_rope(
        msgspec.structs.replace(config, head_dim=config.qk_rope_head_dim, partial_rotary_factor=1.0)
    )
    return LatentAttentionSpec(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=1,
        head_size=config.kv_lora_rank + config.qk_rope_head_dim,
        value_size=config.kv_lora_rank,
        query_rank=config.q_lora_rank,
        plain_size=config.qk_nope_head_dim,
        head_value_size=config.v_head_dim,
        scale=_scale(config, rope),
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        norm=LATENT_NORM,
        rope=rope,
        is_interleaved=config.rope_interleave,
    )


def _scale(config: LatentConfig, rope: RopeSpec) -> float:
    """Of the scores; grown with the context that yarn has extended."""
    scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    if config.rope_scaling is None or not config.rope_scaling.mscale_all_dim:
        return float(scale)
    grown = 0.1 * config.rope_scaling.mscale_all_dim * math.log(rope.factor) + 1
    return float(scale * grown**2)
