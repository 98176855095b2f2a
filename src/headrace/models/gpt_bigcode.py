"""GPT-BigCode (StarCoder, SantaCoder): GPT-2 with one key and value head for all queries."""

from typing import Any

from headrace.models.family import read_config, refuse
from headrace.models.gpt2 import GPT2Config, gpt2_layer, gpt2_naming, gpt2_spec
from headrace.models.sources import grouped_qkv, stacked_qkv
from headrace.models.spec import DecoderSpec


class GPTBigCodeConfig(GPT2Config, kw_only=True):
    """What GPT-BigCode adds to GPT-2's fields."""

    hidden_act: str = "gelu_pytorch_tanh"


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    refuse(config, "add_cross_attention")
    is_multi_query = config.get("multi_query", True)
    if is_multi_query:
        config = config | {"num_key_value_heads": 1}
    gpt = read_config(GPTBigCodeConfig, config)
    layer = gpt2_layer(gpt)
    qkv = (stacked_qkv if is_multi_query else grouped_qkv)("attn.c_attn", layer.attention)
    return gpt2_spec(gpt, layer, gpt2_naming(qkv, is_transposed=False))
