"""Granite-MoE: Granite with mixtures of experts, in some versions with a shared one."""

from dataclasses import replace
from typing import Any

from headrace.models.family import mlp_spec, read_config
from headrace.models.fields import Natural
from headrace.models.granite import GraniteConfig, granite_decoder, granite_layer
from headrace.models.mixture import MoEConfig, moe_spec
from headrace.models.sources import stacked_experts, stacked_gate_up
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming
from headrace.weights.naming import Source


class GraniteMoEConfig(MoEConfig, kw_only=True):
    """What Granite-MoE adds to the fields about experts."""

    shared_intermediate_size: Natural = 0
    """0: there is no shared expert."""


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    granite, moe = read_config(GraniteConfig, config), read_config(GraniteMoEConfig, config)
    mixture, size = moe_spec(granite, moe), moe.shared_intermediate_size
    mixture = replace(mixture, router=replace(mixture.router, is_normalized=True))
    if size:
        mixture = replace(mixture, shared=replace(mlp_spec(granite), intermediate_size=size))
    inner = {
        "mlp.router": "block_sparse_moe.router.layer",
        **stacked_experts(
            Source("block_sparse_moe.input_linear"),
            Source("block_sparse_moe.output_linear"),
            mixture,
        ),
        **stacked_gate_up("shared_mlp.input_linear", size, "mlp.shared_expert"),
        "mlp.shared_expert.down_proj": "shared_mlp.output_linear",
    }
    decoder = granite_decoder(granite, replace(granite_layer(granite), mlp=mixture))
    return replace(decoder, naming=Naming(inner=inner))
