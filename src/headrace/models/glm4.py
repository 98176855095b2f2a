"""GLM-4: norms around attention and MLP, half of each head rotates, neighbours together."""

from dataclasses import replace
from typing import Any

from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    mlp_spec,
    read_config,
    rms_norm,
)
from headrace.models.fields import Share
from headrace.models.sources import interleaved_qk, stacked_gate_up
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming


class Glm4Config(FamilyConfig, kw_only=True):
    """What GLM-4 adds to the shared fields."""

    partial_rotary_factor: Share = 0.5
    attention_bias: bool = True


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    glm = read_config(Glm4Config, config)
    attention = replace(attention_spec(glm), qkv_bias=glm.attention_bias)
    layer = LayerSpec(attention=attention, mlp=mlp_spec(glm), norm=rms_norm(glm), placement="both")
    naming = Naming(
        inner={
            **interleaved_qk(attention),
            **stacked_gate_up("mlp.gate_up_proj", glm.intermediate_size),
            "attention_output_norm": "post_self_attn_layernorm",
            "mlp_output_norm": "post_mlp_layernorm",
        }
    )
    return replace(decoder_spec(glm, layer), naming=naming)
