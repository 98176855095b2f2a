"""GPT-NeoX and Pythia: attention and MLP side by side, each with a norm; partial rotation."""

from dataclasses import replace
from typing import Any

from headrace.models.family import FamilyConfig, decoder_spec, gpt_layer, read_config
from headrace.models.fields import Share
from headrace.models.sources import grouped_qkv
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming


class GPTNeoXConfig(FamilyConfig, kw_only=True):
    """What GPT-NeoX adds to the shared fields."""

    hidden_act: str = "gelu"
    partial_rotary_factor: Share = 0.25
    attention_bias: bool = True
    use_parallel_residual: bool = True


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    neox = read_config(GPTNeoXConfig, config)
    layer, bias = gpt_layer(neox), neox.attention_bias
    attention = replace(layer.attention, qkv_bias=bias, output_bias=bias)
    layer = replace(layer, attention=attention, is_parallel=neox.use_parallel_residual)
    naming = Naming(
        base="gpt_neox.",
        inner={
            **grouped_qkv("attention.query_key_value", attention),
            "self_attn.o_proj": "attention.dense",
            "mlp.up_proj": "mlp.dense_h_to_4h",
            "mlp.down_proj": "mlp.dense_4h_to_h",
        },
        outer={"embed_tokens": "embed_in", "norm": "final_layer_norm"},
        head="embed_out",
    )
    return replace(decoder_spec(neox, layer), naming=naming)
