"""GPT-J: attention and MLP side by side behind one norm, neighbouring elements rotate."""

from dataclasses import replace
from typing import Any

from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    gpt_layer,
    read_config,
)
from headrace.models.fields import Positive
from headrace.models.sources import interleaved_qk
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming


class GPTJConfig(FamilyConfig, kw_only=True):
    """What GPT-J adds to the shared fields."""

    hidden_act: str = "gelu_new"
    rotary_dim: Positive = 64


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    gpt = read_config(GPTJConfig, config)
    gpt.partial_rotary_factor = gpt.rotary_dim / gpt.head_dim
    attention = attention_spec(gpt)
    layer = replace(gpt_layer(gpt), attention=attention, is_parallel=True)
    naming = Naming(
        base="transformer.",
        layers="h.",
        inner={
            **interleaved_qk(attention, "attn.q_proj", "attn.k_proj"),
            "self_attn.v_proj": "attn.v_proj",
            "self_attn.o_proj": "attn.out_proj",
            "mlp.up_proj": "mlp.fc_in",
            "mlp.down_proj": "mlp.fc_out",
            "input_layernorm": "ln_1",
            "post_attention_layernorm": "ln_1",
        },
        outer={"embed_tokens": "wte", "norm": "ln_f"},
    )
    decoder = decoder_spec(gpt, layer)
    return replace(decoder, head=replace(decoder.head, bias=True), naming=naming)
