"""Phi 1 to 2: attention and MLP side by side behind one norm, biases, partial rotation."""

from dataclasses import replace
from typing import Any

from headrace.models.family import FamilyConfig, decoder_spec, gpt_layer, read_config, refuse
from headrace.models.fields import Share
from headrace.models.spec import DecoderSpec
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
    decoder = decoder_spec(phi, replace(gpt_layer(phi), is_parallel=True))
    return replace(decoder, head=replace(decoder.head, bias=True), naming=NAMING)
