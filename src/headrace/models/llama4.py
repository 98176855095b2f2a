"""Llama 4, its text part: layers that rotate see their chunk, the others all, at a temperature."""

from dataclasses import replace
from typing import Any

from headrace.layers.attention import HeadNormSpec
from headrace.layers.norm import NormSpec
from headrace.layers.operations import Temperature
from headrace.models.family import decoder_spec, layer_rotations, mlp_spec, read_config
from headrace.models.fields import Positive, PositiveFloat
from headrace.models.llama import LlamaConfig, layer_spec
from headrace.models.mixture import MoEConfig, moe_spec, with_mixtures
from headrace.models.sources import MLP_PARTS, interleaved_qk, transposed_experts
from headrace.models.spec import DecoderSpec, LayerSpec
from headrace.weights import Naming

RENAMED = ["router", *MLP_PARTS, *(f"shared_expert.{part}" for part in MLP_PARTS)]


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


def llama4_layer(config: Llama4Config, *, rotates: bool) -> LayerSpec:
    layer, chunk = layer_spec(config), config.attention_chunk_size
    mlp = replace(mlp_spec(config), intermediate_size=config.intermediate_size_mlp)
    if rotates:
        # Transformers normalises after the rotation, which leaves the norm as it is.
        norm = NormSpec(epsilon=config.rms_norm_eps, has_weight=False)
        head_norm = HeadNormSpec(norm=norm) if config.use_qk_norm else None
        attention = replace(layer.attention, chunk=chunk, head_norm=head_norm)
    else:
        temperature = Temperature(config.floor_scale, config.attn_scale)
        tuned = temperature if config.attn_temperature_tuning else None
        attention = replace(layer.attention, rope=None, temperature=tuned)
    return replace(layer, attention=attention, mlp=mlp)


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    llama, moe = read_config(Llama4Config, config), read_config(Llama4MoEConfig, config)
    rotations = layer_rotations(llama, llama.no_rope_layers or None, llama.no_rope_layer_interval)
    layers = [llama4_layer(llama, rotates=rotates) for rotates in rotations]
    mixture = moe_spec(llama, moe)
    router = replace(mixture.router, scores="sigmoid", weighs_inputs=True)
    mixture = replace(mixture, router=router, shared=mlp_spec(llama))
    count, step = len(layers), moe.interleave_moe_layer_step
    chosen = moe.moe_layers if moe.moe_layers is not None else range(step - 1, count, step)
    layers = with_mixtures(layers, mixture, [number in chosen for number in range(count)])
    inner = {
        **interleaved_qk(layer_spec(llama).attention),
        **transposed_experts("feed_forward.experts", mixture),
        **{f"mlp.{name}": f"feed_forward.{name}" for name in RENAMED},
    }
    return replace(decoder_spec(llama, layers), naming=Naming(inner=inner))
