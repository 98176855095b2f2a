"""Granite-MoE: Granite with mixtures of experts, in some versions with a shared one."""

from dataclasses import replace
from typing import Any

from headrace.models.family import mlp_spec, read_config
from headrace.models.fields import Natural
from headrace.models.granite import GraniteConfig, granite_decoder, granite_layer
from headrace.models.mixture import MoEConfig, moe_spec
from headrace.models.sources import stacked_experts
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming
from headrace.weights.naming import Source, part


class GraniteMoEConfig(MoEConfig, kw_only=True):
    """What Granite-MoE adds to the fields about experts."""

    shared_intermediate_size: Natural = 0
    """0: there is no shared expert."""


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    granite, moe = read_config(GraniteConfig, config), read_config(GraniteMoEConfig, config)
    mixture, size, shared_size = moe_spec(granite, moe), granite.intermediate_size, 0
    mixture = replace(mixture, router=replace(mixture.router, is_normalized=True))
    experts = stacked_experts(
        Source("block_sparse_moe.input_linear"),
        gate=part(0, size),
        up=part(size, size),
        down=Source("block_sparse_moe.output_linear"),
        num_experts=moe.num_experts,
    )
    if shared_size := moe.shared_intermediate_size:
        mixture = replace(mixture, shared=replace(mlp_spec(granite), intermediate_size=shared_size))
    shared = {
        "mlp.shared_expert.gate_proj": Source("shared_mlp.input_linear", part(0, shared_size)),
        "mlp.shared_expert.up_proj": Source(
            "shared_mlp.input_linear", part(shared_size, shared_size)
        ),
        "mlp.shared_expert.down_proj": Source("shared_mlp.output_linear"),
        "mlp.router": Source("block_sparse_moe.router.layer"),
    }
    decoder = granite_decoder(granite, replace(granite_layer(granite), mlp=mixture))
    return replace(decoder, naming=Naming(inner={**experts, **shared}))
