"""GPT-2: learned positions, layer norms, an MLP without gate, transposed weights."""

from dataclasses import replace
from typing import Any

from headrace.layers.embedding import EmbeddingSpec
from headrace.models.family import FamilyConfig, decoder_spec, gpt_layer, read_config, refuse
from headrace.models.sources import stacked_qkv
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming
from headrace.weights.naming import Source


class GPT2Config(FamilyConfig, kw_only=True):
    """What GPT-2 adds to the shared fields."""

    hidden_act: str = "gelu_new"
    scale_attn_weights: bool = True


def gpt2_spec(gpt: GPT2Config, layer: LayerSpec, naming: Naming) -> DecoderSpec:
    """A decoder with learned positions."""
    positions = gpt.max_position_embeddings
    embedding = EmbeddingSpec(size=gpt.hidden_size, num_positions=positions)
    return replace(decoder_spec(gpt, layer), embedding=embedding, naming=naming)


def gpt2_layer(gpt: GPT2Config) -> LayerSpec:
    layer = gpt_layer(gpt)
    scale = layer.attention.scale if gpt.scale_attn_weights else 1.0
    return replace(layer, attention=replace(layer.attention, rope=None, scale=scale))


def gpt2_naming(qkv: dict[str, Source], *, is_transposed: bool) -> Naming:
    return Naming(
        base="transformer.",
        layers="h.",
        inner={
            **qkv,
            "self_attn.o_proj": Source("attn.c_proj", is_transposed=is_transposed),
            "mlp.up_proj": Source("mlp.c_fc", is_transposed=is_transposed),
            "mlp.down_proj": Source("mlp.c_proj", is_transposed=is_transposed),
            "input_layernorm": "ln_1",
            "post_attention_layernorm": "ln_2",
        },
        outer={"embed_tokens": "wte", "embed_positions": "wpe", "norm": "ln_f"},
    )


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    refuse(config, "scale_attn_by_inverse_layer_idx", "add_cross_attention")
    gpt = read_config(GPT2Config, config)
    layer = gpt2_layer(gpt)
    qkv = stacked_qkv("attn.c_attn", layer.attention, is_transposed=True)
    return gpt2_spec(gpt, layer, gpt2_naming(qkv, is_transposed=True))
