"""Llama 4, its text part: layers that rotate see their chunk, the others all, at a temperature."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import AttentionSpec, HeadNormSpec
from headrace.layers.moe import MoESpec
from headrace.layers.norm import NormSpec
from headrace.layers.operations import Temperature
from headrace.models.family import attention_spec, decoder_spec, mlp_spec, read_config, rms_norm
from headrace.models.fields import Positive, PositiveFloat
from headrace.models.llama import LlamaConfig
from headrace.models.mixture import MoEConfig, moe_spec, with_mixtures
from headrace.models.smollm3 import layer_rotations
from headrace.models.sources import MLP_PARTS, interleaved_qk, stacked_experts
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming
from headrace.weights.naming import Source


class Llama4Config(LlamaConfig, kw_only=True):
    """What Llama 4 adds to Llama's fields."""

    intermediate_size_mlp: Positive
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: Positive = 4
    attention_chunk_size: Positive | None = None
    use_qk_norm: bool = True
    attn_temperature_tuning: bool | int = True
    floor_scale: PositiveFloat = 8192
    attn_scale: float = 0.1


class Llama4MoEConfig(MoEConfig, kw_only=True):
    """What it adds to the fields about experts."""

    moe_layers: list[int] | None = None
    interleave_moe_layer_step: Positive = 1


def llama4_attention(config: Llama4Config, *, rotates: bool) -> AttentionSpec:
    bias = config.attention_bias
    attention = replace(attention_spec(config), qkv_bias=bias, output_bias=bias)
    if not rotates:
        temperature = Temperature(config.floor_scale, config.attn_scale)
        tuned = temperature if config.attn_temperature_tuning else None
        return replace(attention, rope=None, temperature=tuned)
    # Transformers normalises after the rotation, which leaves the norm as it is.
    norm = NormSpec(epsilon=config.rms_norm_eps, has_weight=False)
    head_norm = HeadNormSpec(norm=norm) if config.use_qk_norm else None
    return replace(attention, chunk=config.attention_chunk_size, head_norm=head_norm)


def llama4_naming(attention: AttentionSpec, mixture: MoESpec) -> Naming:
    experts = stacked_experts(
        Source("feed_forward.experts.gate_up_proj", is_transposed=True, is_parameter=True),
        Source("feed_forward.experts.down_proj", is_transposed=True, is_parameter=True),
        mixture,
    )
    rest = ["router", *MLP_PARTS, *(f"shared_expert.{name}" for name in MLP_PARTS)]
    return Naming(
        inner={
            **interleaved_qk("self_attn.q_proj", "self_attn.k_proj", attention),
            **experts,
            **{f"mlp.{name}": f"feed_forward.{name}" for name in rest},
        }
    )


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    llama, moe = read_config(Llama4Config, config), read_config(Llama4MoEConfig, config)
    dense = replace(mlp_spec(llama), intermediate_size=llama.intermediate_size_mlp)
    rotations = layer_rotations(llama.no_rope_layers or None, llama.no_rope_layer_interval, llama)
    layers = [
        LayerSpec(
            attention=llama4_attention(llama, rotates=rotates), mlp=dense, norm=rms_norm(llama)
        )
        for rotates in rotations
    ]
    mixture = moe_spec(llama, moe)
    router = replace(mixture.router, scores="sigmoid", weighs_inputs=True)
    mixture = replace(mixture, router=router, shared=mlp_spec(llama))
    count, step = len(layers), moe.interleave_moe_layer_step
    chosen = moe.moe_layers if moe.moe_layers is not None else range(step - 1, count, step)
    layers = with_mixtures(layers, mixture, [number in chosen for number in range(count)])
    naming = llama4_naming(attention_spec(llama), mixture)
    return replace(decoder_spec(llama, layers), naming=naming)
