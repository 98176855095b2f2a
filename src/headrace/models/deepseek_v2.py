"""DeepSeek V2: latent attention, and after the first layers experts chosen group by group."""

from dataclasses import replace
from typing import Any, Literal

import msgspec

from headrace.layers.moe import MoESpec
from headrace.models.family import decoder_spec, mlp_spec, read_config, rms_norm
from headrace.models.fields import Natural
from headrace.models.latent import LatentConfig, latent_attention
from headrace.models.mixture import GroupedMoEConfig, grouped_moe_spec, with_mixtures
from headrace.models.sources import MLP_PARTS
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming

NAMING = Naming(
    inner={
        "mlp.router": "mlp.gate",
        **{f"mlp.shared_expert.{part}": f"mlp.shared_experts.{part}" for part in MLP_PARTS},
    }
)


class DeepseekConfig(LatentConfig, kw_only=True):
    """What DeepSeek V2 and V3 add to the fields of latent attention."""

    first_k_dense_replace: Natural = 0


class DeepseekMoEConfig(GroupedMoEConfig, kw_only=True):
    """What they add to the fields about groups of experts."""

    topk_method: Literal["greedy", "group_limited_greedy", "noaux_tc"] = "greedy"
    moe_layer_freq: Literal[1] = 1


def deepseek_decoder(config: DeepseekConfig, mixture: MoESpec) -> DecoderSpec:
    """The first `first_k_dense_replace` layers have an MLP, the others the mixture."""
    attention = latent_attention(config)
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
    return deepseek_decoder(deepseek, grouped_moe_spec(deepseek, moe))
