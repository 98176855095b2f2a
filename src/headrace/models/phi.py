"""Phi 1 to 2: attention and MLP side by side behind one norm, biases, partial rotation."""

from dataclasses import replace
from typing import Any

from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    layer_norm,
    mlp_spec,
    read_config,
    refuse,
)
from headrace.models.fields import Share
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming

NAMING = Naming(
    inner={
        "self_attn.o_proj": "self_attn.dense",
        "mlp.up_proj": "mlp.fc1",
        "mlp.down_proj": "mlp.fc2",
        "post_attention_layernorm": "input_layernorm",
    },
    outer={"norm": "final_layernorm"},
)


class PhiConfig(FamilyConfig, kw_only=True):
    """Where Phi has other defaults than the shared fields."""

    hidden_act: str = "gelu_new"
    partial_rotary_factor: Share = 0.5


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    refuse(config, "qk_layernorm")
    phi = read_config(PhiConfig, config)
    layer = LayerSpec(
        attention=replace(attention_spec(phi), qkv_bias=True, output_bias=True),
        mlp=replace(mlp_spec(phi), is_gated=False, bias=True),
        norm=layer_norm(phi),
        is_parallel=True,
    )
    decoder = decoder_spec(phi, layer)
    return replace(decoder, head=replace(decoder.head, bias=True), naming=NAMING)
