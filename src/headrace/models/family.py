"""What family files share: config.json's common fields, and the specs that follow from them.

A family reads its config, changes what sets it apart with `dataclasses.replace`, and gives its
names of parameters.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from headrace.errors import StartupError
from headrace.layers.activation import ACTIVATIONS
from headrace.layers.attention import AttentionSpec
from headrace.layers.embedding import EmbeddingSpec, HeadSpec
from headrace.layers.mlp import MLPSpec
from headrace.layers.norm import NormSpec
from headrace.layers.rope import ROPE_TYPES, RopeSpec
from headrace.models.spec import DecoderSpec, LayerSpec

Positive = Annotated[int, msgspec.Meta(gt=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
LayerCount = Annotated[int, msgspec.Meta(gt=0, le=10_000)]
LayerTypes = list[Literal["full_attention", "sliding_attention"]]
EXTENDING_ROPE_TYPES = ("linear", "dynamic", "yarn")


class RopeScaling(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """config.json's rope_scaling, in the checkpoint's normal form."""

    rope_type: str
    factor: Annotated[float, msgspec.Meta(ge=1)] | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: Positive | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    short_factor: tuple[PositiveFloat, ...] = ()
    long_factor: tuple[PositiveFloat, ...] = ()
    attention_factor: float | None = None


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
    partial_rotary_factor: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    tie_word_embeddings: bool


Config = TypeVar("Config", bound=FamilyConfig)


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


def _attention_factor(scaling: RopeScaling, factor: float, original: int) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.rope_type == "longrope" and factor > 1:
        return math.sqrt(1 + math.log(factor) / math.log(original))
    if scaling.rope_type != "yarn" or factor <= 1:
        return 1.0
    if scaling.mscale and scaling.mscale_all_dim:
        grown, base = (0.1 * m * math.log(factor) + 1
                       for m in (scaling.mscale, scaling.mscale_all_dim))  # fmt: skip
        return grown / base
    return 0.1 * math.log(factor) + 1


def rope_spec(config: FamilyConfig) -> RopeSpec:
    """The rotary embedding. Raises StartupError for one that is not supported."""
    scaling = config.rope_scaling or RopeScaling(rope_type="default")
    if scaling.rope_type not in ROPE_TYPES:
        raise StartupError(
            f"config.json: rope_type {scaling.rope_type!r} is not supported; "
            f"supported are {', '.join(ROPE_TYPES)}"
        )
    longest = config.max_position_embeddings
    original = scaling.original_max_position_embeddings
    original = original or config.original_max_position_embeddings or longest
    factor = scaling.factor
    if factor is None:
        factor = longest / original if scaling.rope_type == "longrope" else 1.0
    rotary_size = int(config.head_dim * config.partial_rotary_factor)
    if rotary_size < 4 or rotary_size % 2:
        raise StartupError(
            f"config.json: head_dim times partial_rotary_factor is {rotary_size}; "
            "rotary embeddings need an even number from 4 on"
        )
    for name in ("short_factor", "long_factor"):
        length = len(getattr(scaling, name))
        if scaling.rope_type == "longrope" and length != rotary_size // 2:
            raise StartupError(
                f"config.json: rope_scaling.{name} has {length} entries, "
                f"{rotary_size // 2} are needed"
            )
    return RopeSpec(
        rotary_size=rotary_size,
        theta=config.rope_theta,
        type=scaling.rope_type,
        factor=factor,
        low_freq_factor=scaling.low_freq_factor,
        high_freq_factor=scaling.high_freq_factor,
        original_max_position=original,
        beta_fast=scaling.beta_fast,
        beta_slow=scaling.beta_slow,
        is_truncated=scaling.truncate,
        short_factors=scaling.short_factor,
        long_factors=scaling.long_factor,
        attention_factor=_attention_factor(scaling, factor, original),
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
        rope=rope_spec(config),
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


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """One per head (Press et al. 2021): a geometric series; what is past a power of two is from
    the series of the next one."""
    whole = 1 << (num_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (head + 1) / whole) for head in range(whole)]
    between = [2 ** (-4 * (head + 1) / whole) for head in range(0, 2 * whole, 2)]
    return tuple(slopes + between)[:num_heads]


def decoder_spec(config: FamilyConfig, layers: LayerSpec | Sequence[LayerSpec]) -> DecoderSpec:
    """The decoder of these layers, or of one for all; its last norm is the layers'."""
    if isinstance(layers, LayerSpec):
        layers = [layers] * config.num_hidden_layers
    max_position = config.max_position_embeddings
    for rope in {layer.attention.rope for layer in layers}:
        if rope is not None and rope.type in EXTENDING_ROPE_TYPES:
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
