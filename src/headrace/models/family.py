"""What family files share: config.json's common fields, and the specs that follow from them.

A family reads its config, changes what sets it apart with `dataclasses.replace`, and gives its
names of parameters.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import msgspec

from headrace.errors import StartupError
from headrace.layers.activation import ACTIVATIONS
from headrace.layers.attention import AttentionSpec
from headrace.layers.embedding import EmbeddingSpec, HeadSpec
from headrace.layers.mlp import MLPSpec
from headrace.layers.norm import NormSpec
from headrace.layers.rope import RopeSpec
from headrace.models.fields import LayerCount, LayerTypes, Positive, Share
from headrace.models.rope import EXTENDING_TYPES, RopeScaling, rope_spec
from headrace.models.spec import DecoderSpec, LayerSpec


class FamilyConfig(msgspec.Struct, kw_only=True):
    """The fields of config.json that all families share; each adds its own."""

    vocab_size: Positive
    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: LayerCount
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_dim: Positive
    max_position_embeddings: Positive
    original_max_position_embeddings: Positive | None = None
    rms_norm_eps: float = 1e-6
    layer_norm_eps: float = 1e-5
    hidden_act: str = "silu"
    rope_theta: Annotated[float, msgspec.Meta(gt=1)]
    rope_scaling: RopeScaling | None = None
    partial_rotary_factor: Share = 1.0
    tie_word_embeddings: bool


Config = TypeVar("Config", bound=msgspec.Struct)


def read_config(kind: type[Config], config: dict[str, Any]) -> Config:
    """Check config.json against a family's fields. Raises StartupError naming the field."""
    try:
        return msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise StartupError(f"config.json of this model: {error}") from None


def refuse(config: dict[str, Any], *fields: str) -> None:
    """Raises StartupError for a field that is set although no part of the decoder supports it."""
    for name in fields:
        if config.get(name):
            raise StartupError(f"config.json: {name} is {config[name]!r}, which is not supported")


def family_rope(config: FamilyConfig) -> RopeSpec:
    """The rotary embedding. Raises StartupError for one that is not supported."""
    return rope_spec(
        config.rope_scaling or RopeScaling(rope_type="default"),
        theta=config.rope_theta,
        head_size=config.head_dim,
        rotary_size=int(config.head_dim * config.partial_rotary_factor),
        longest=config.max_position_embeddings,
        original=config.original_max_position_embeddings,
    )


def attention_spec(config: FamilyConfig) -> AttentionSpec:
    """Rotary attention without biases."""
    if config.num_attention_heads % config.num_key_value_heads:
        raise StartupError(
            f"config.json: num_attention_heads ({config.num_attention_heads}) must be a multiple "
            f"of num_key_value_heads ({config.num_key_value_heads})"
        )
    return AttentionSpec(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_size=config.head_dim,
        scale=config.head_dim**-0.5,
        rope=family_rope(config),
    )


def mlp_spec(config: FamilyConfig) -> MLPSpec:
    """A gated MLP without biases."""
    if config.hidden_act not in ACTIVATIONS:
        raise StartupError(
            f"config.json: hidden_act {config.hidden_act!r} is not supported; "
            f"supported are {', '.join(ACTIVATIONS)}"
        )
    return MLPSpec(intermediate_size=config.intermediate_size, activation=config.hidden_act)


def rms_norm(config: FamilyConfig) -> NormSpec:
    return NormSpec(epsilon=config.rms_norm_eps)


def layer_norm(config: FamilyConfig) -> NormSpec:
    """With weight and bias."""
    return NormSpec(epsilon=config.layer_norm_eps, kind="layer", has_bias=True)


def gpt_layer(config: FamilyConfig, *, bias: bool = True) -> LayerSpec:
    """Rotary attention and an MLP without gate, each behind a layer norm; biases everywhere, or in
    the norms only."""
    return LayerSpec(
        attention=replace(attention_spec(config), qkv_bias=bias, output_bias=bias),
        mlp=replace(mlp_spec(config), is_gated=False, bias=bias),
        norm=layer_norm(config),
    )


def layer_windows(config: FamilyConfig, types: LayerTypes, window: int | None) -> list[int | None]:
    """The window of each layer by its type. Raises StartupError for a wrong number of types."""
    if len(types) != config.num_hidden_layers:
        raise StartupError(
            f"config.json: layer_types has {len(types)} entries "
            f"for {config.num_hidden_layers} layers"
        )
    return [window if kind == "sliding_attention" else None for kind in types]


def every_nth_full(config: FamilyConfig, n: int) -> LayerTypes:
    """Layer types where every n-th layer sees all."""
    layers = range(1, config.num_hidden_layers + 1)
    return ["sliding_attention" if layer % n else "full_attention" for layer in layers]


def layer_rotations(config: FamilyConfig, rotates: list[int] | None, interval: int) -> list[bool]:
    """Whether each layer rotates: as listed, or all but every `interval`-th. Raises StartupError
    for a list of another length."""
    count = config.num_hidden_layers
    if rotates is None:
        rotates = [(number + 1) % interval for number in range(count)]
    if len(rotates) != count:
        raise StartupError(
            f"config.json: no_rope_layers has {len(rotates)} entries for {count} layers"
        )
    return [bool(rotation) for rotation in rotates]


def alibi_slopes(num_heads: int, largest: int = 8) -> tuple[float, ...]:
    """One per head (Press et al. 2021): a geometric series down to 2 ** -largest; what is past a
    power of two is from between its members."""
    count = 1 << (num_heads - 1).bit_length()
    slopes = [2 ** (-largest * (head + 1) / count) for head in range(count)]
    if count != num_heads:
        slopes = slopes[1::2] + slopes[::2]
    return tuple(slopes[:num_heads])


def decoder_spec(config: FamilyConfig, layers: LayerSpec | Sequence[LayerSpec]) -> DecoderSpec:
    """The decoder of these layers, or of one for all; its last norm is the layers'."""
    if isinstance(layers, LayerSpec):
        layers = [layers] * config.num_hidden_layers
    max_position = config.max_position_embeddings
    ropes = {layer.attention.rope for layer in layers}
    if ropes == {None} and config.rope_scaling is not None:
        raise StartupError("config.json: rope_scaling of a model without rotary embedding")
    for rope in ropes:
        if rope is not None and rope.type in EXTENDING_TYPES:
            max_position = int(rope.original_max_position * rope.factor)
    return DecoderSpec(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        max_position=max_position,
        embedding=EmbeddingSpec(size=config.hidden_size),
        layers=tuple(layers),
        norm=layers[-1].norm,
        head=HeadSpec(is_tied=config.tie_word_embeddings),
    )
