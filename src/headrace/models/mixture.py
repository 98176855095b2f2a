"""What families with mixtures of experts share: config.json's fields about them, and what follows.

Read beside the family's own config: `moe = read_config(MoEConfig, config)`.
"""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from headrace.errors import StartupError
from headrace.layers.moe import MoESpec
from headrace.layers.routing import RouterSpec
from headrace.models.family import FamilyConfig, mlp_spec
from headrace.models.fields import ExpertCount, Natural, Positive, PositiveFloat
from headrace.models.spec import LayerSpec


class MoEConfig(msgspec.Struct, kw_only=True):
    """The fields about experts that all families share; each adds its own."""

    num_experts: ExpertCount
    num_experts_per_tok: Positive
    moe_intermediate_size: Positive | None = None
    """None: the experts have the `intermediate_size`."""
    norm_topk_prob: bool = False


class GroupedMoEConfig(MoEConfig, kw_only=True):
    """Those of families that choose groups of experts first, then experts of these (DeepSeek)."""

    n_group: Positive | None = None
    topk_group: Positive | None = None
    n_shared_experts: Natural | None = None
    routed_scaling_factor: PositiveFloat = 1.0


def router_spec(moe: MoEConfig) -> RouterSpec:
    """By softmax over all experts. Raises StartupError for a choice that cannot be made."""
    if moe.num_experts_per_tok > moe.num_experts:
        raise StartupError(
            f"config.json: num_experts_per_tok ({moe.num_experts_per_tok}) exceeds the number of "
            f"experts ({moe.num_experts})"
        )
    return RouterSpec(
        num_experts=moe.num_experts,
        experts_per_token=moe.num_experts_per_tok,
        is_normalized=moe.norm_topk_prob,
    )


def moe_spec(config: FamilyConfig, moe: MoEConfig) -> MoESpec:
    """A mixture of gated MLPs without biases, and no shared expert."""
    size = moe.moe_intermediate_size or config.intermediate_size
    expert = replace(mlp_spec(config), intermediate_size=size)
    return MoESpec(router=router_spec(moe), expert=expert)


def grouped_moe_spec(config: FamilyConfig, moe: GroupedMoEConfig) -> MoESpec:
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


def with_mixtures(
    layers: Sequence[LayerSpec], mixture: MoESpec, is_sparse: Sequence[bool]
) -> list[LayerSpec]:
    """The layers, those that are sparse with the mixture in place of their MLP."""
    return [
        replace(layer, mlp=mixture) if sparse else layer
        for layer, sparse in zip(layers, is_sparse, strict=True)
    ]
