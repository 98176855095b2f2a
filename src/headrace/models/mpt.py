"""MPT: ALiBi, no biases at all."""

from dataclasses import replace
from typing import Any

import msgspec

from headrace.models.family import (
    FamilyConfig,
    alibi_slopes,
    decoder_spec,
    gpt_layer,
    read_config,
    refuse,
)
from headrace.models.fields import Positive, PositiveFloat
from headrace.models.sources import stacked_qkv
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming


class MPTAttention(msgspec.Struct, kw_only=True):
    """The fields of `attn_config` that change what is computed."""

    alibi_bias_max: Positive = 8
    clip_qkv: PositiveFloat | None = None
    softmax_scale: PositiveFloat | None = None


class MPTConfig(FamilyConfig, kw_only=True):
    """What MPT adds to the shared fields."""

    hidden_act: str = "gelu"
    attn_config: MPTAttention = msgspec.field(default_factory=MPTAttention)


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    refuse(config, "logit_scale")
    refuse(config.get("attn_config") or {}, "qk_ln", "prefix_lm")
    mpt = read_config(MPTConfig, config)
    options, layer = mpt.attn_config, gpt_layer(mpt, bias=False)
    attention = replace(
        layer.attention,
        rope=None,
        alibi_slopes=alibi_slopes(layer.attention.num_heads, options.alibi_bias_max),
        clip=options.clip_qkv,
        scale=options.softmax_scale or layer.attention.scale,
    )
    layer = replace(layer, attention=attention, norm=replace(layer.norm, has_bias=False))
    naming = Naming(
        base="transformer.",
        layers="blocks.",
        inner={
            **stacked_qkv("attn.Wqkv", attention),
            "self_attn.o_proj": "attn.out_proj",
            "mlp.up_proj": "ffn.up_proj",
            "mlp.down_proj": "ffn.down_proj",
            "input_layernorm": "norm_1",
            "post_attention_layernorm": "norm_2",
        },
        outer={"embed_tokens": "wte", "norm": "norm_f"},
    )
    return replace(decoder_spec(mpt, layer), naming=naming)
