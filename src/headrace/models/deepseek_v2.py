"""DeepSeek V2: latent attention, and after the first layers experts chosen group by group."""

import math
from dataclasses import replace
from typing import Any, Literal

import msgspec

from headrace.errors import StartupError
from headrace.layers.latent import LatentAttentionSpec
from headrace.layers.moe import MoESpec
from headrace.layers.norm import NormSpec
from headrace.layers.rope import RopeSpec
from headrace.models.family import (
    FamilyConfig,
    decoder_spec,
    family_rope,
    mlp_spec,
    read_config,
    rms_norm,
)
from headrace.models.fields import Natural, Positive, PositiveFloat
from headrace.models.mixture import MoEConfig, moe_spec, with_mixtures
from headrace.models.sources import MLP_PARTS
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming

NAMING = Naming(
    inner={
        "mlp.router": "mlp.gate",
        **{f"mlp.shared_expert.{part}": f"mlp.shared_experts.{part}" for part in MLP_PARTS},
    }
)
LATENT_NORM = NormSpec(epsilon=1e-6)


class DeepseekConfig(FamilyConfig, kw_only=True):
    """What DeepSeek V2 and V3 add to the shared fields."""

    q_lora_rank: Positive | None = None
    kv_lora_rank: Positive
    qk_nope_head_dim: Positive
    qk_rope_head_dim: Positive
    v_head_dim: Positive
    attention_bias: bool = False
    first_k_dense_replace: Natural = 0
    rope_interleave: bool = True


class DeepseekMoEConfig(MoEConfig, kw_only=True):
    """What they add to the fields about experts."""

    n_group: Positive | None = None
    topk_group: Positive | None = None
    n_shared_experts: Natural | None = None
    routed_scaling_factor: PositiveFloat = 1.0
    topk_method: Literal["greedy", "group_limited_greedy", "noaux_tc"] = "greedy"
    moe_layer_freq: Literal[1] = 1


def deepseek_attention(config: DeepseekConfig) -> LatentAttentionSpec:
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


def _scale(config: DeepseekConfig, rope: RopeSpec) -> float:
    """Of the scores; grown with the context that yarn has extended."""
    scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    if config.rope_scaling is None or not config.rope_scaling.mscale_all_dim:
        return float(scale)
    grown = 0.1 * config.rope_scaling.mscale_all_dim * math.log(rope.factor) + 1
    return float(scale * grown**2)


def deepseek_mixture(config: DeepseekConfig, moe: DeepseekMoEConfig) -> MoESpec:
    """With the groups of the config, and shared experts as one of their joint size."""
    mixture, groups, chosen = moe_spec(config, moe), moe.n_group or 1, moe.topk_group or 1
    if moe.num_experts % groups or chosen > groups:
        raise StartupError(
            f"config.json: {chosen} of {groups} groups (topk_group, n_group) cannot be chosen "
            f"of {moe.num_experts} experts"
        )
    router = replace(
        mixture.router,
        num_groups=groups,
        groups_per_token=chosen,
        scale=moe.routed_scaling_factor,
    )
    size = mixture.expert.intermediate_size * (moe.n_shared_experts or 0)
    shared = replace(mlp_spec(config), intermediate_size=size) if size else None
    return replace(mixture, router=router, shared=shared)


def deepseek_decoder(config: DeepseekConfig, mixture: MoESpec) -> DecoderSpec:
    """The first `first_k_dense_replace` layers have an MLP, the others the mixture."""
    attention = deepseek_attention(config)
    layer = LayerSpec(attention=attention, mlp=mlp_spec(config), norm=rms_norm(config))
    layers = [layer] * config.num_hidden_layers
    is_sparse = [number >= config.first_k_dense_replace for number in range(len(layers))]
    return replace(decoder_spec(config, with_mixtures(layers, mixture, is_sparse)), naming=NAMING)


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    deepseek, moe = read_config(DeepseekConfig, config), read_config(DeepseekMoEConfig, config)
    if moe.topk_method == "greedy":
        moe = msgspec.structs.replace(moe, n_group=1, topk_group=1)
    moe = msgspec.structs.replace(moe, norm_topk_prob=False)
    return deepseek_decoder(deepseek, deepseek_mixture(deepseek, moe))
