"""OLMo 2: norms after attention and MLP, and joint norms of queries and of keys."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import HeadNormSpec
from headrace.models.family import decoder_spec, read_config
from headrace.models.llama import LlamaConfig, layer_spec
from headrace.models.spec import DecoderSpec
from headrace.weights import Naming

NAMING = Naming(
    inner={
        "attention_output_norm": "post_attention_layernorm",
        "mlp_output_norm": "post_feedforward_layernorm",
    }
)


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    olmo = read_config(LlamaConfig, config)
    layer = layer_spec(olmo)
    head_norm = HeadNormSpec(norm=layer.norm, is_joint=True)
    attention = replace(layer.attention, head_norm=head_norm)
    layer = replace(layer, attention=attention, placement="after")
    return replace(decoder_spec(olmo, layer), naming=NAMING)
