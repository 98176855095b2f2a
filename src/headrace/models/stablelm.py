"""StableLM 2 and 3B: layer norms and partial rotation; the largest one's heads are normalised."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import HeadNormSpec
from headrace.layers.norm import NormSpec
from headrace.models.family import (
    FamilyConfig,
    attention_spec,
    decoder_spec,
    layer_norm,
    mlp_spec,
    read_config,
)
from headrace.models.fields import Share
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming
from headrace.weights.naming import Source


class StableLMConfig(FamilyConfig, kw_only=True):
    """What StableLM adds to the shared fields."""

    partial_rotary_factor: Share = 0.25
    use_qkv_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    stable = read_config(StableLMConfig, config)
    attention = replace(attention_spec(stable), qkv_bias=stable.use_qkv_bias)
    if stable.qk_layernorm:
        norm = NormSpec(epsilon=stable.layer_norm_eps, kind="layer")
        attention = replace(attention, head_norm=HeadNormSpec(norm=norm, has_weight_per_head=True))
    layer = LayerSpec(
        attention=attention,
        mlp=mlp_spec(stable),
        norm=layer_norm(stable),
        is_parallel=stable.use_parallel_residual,
    )
    inner: dict[str, str | Source] = {
        f"self_attn.{name}_norm": Source(
            f"self_attn.{name}_layernorm.norms.{{}}", num_parts=num_heads
        )
        for name, num_heads in (("q", attention.num_heads), ("k", attention.num_kv_heads))
    }
    if stable.use_parallel_residual:
        inner["post_attention_layernorm"] = "input_layernorm"
    return replace(decoder_spec(stable, layer), naming=Naming(inner=inner))
