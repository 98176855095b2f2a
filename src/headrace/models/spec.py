"""`DecoderSpec`: all that tells one decoder-only model from another, read from config.json.

Families give the parts that differ; the fields that all of them share are read here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import msgspec

from headrace.errors import StartupError
from headrace.layers.activation import ACTIVATIONS
from headrace.layers.attention import AttentionSpec
from headrace.layers.rope import ROPE_TYPES, RopeSpec

Positive = Annotated[int, msgspec.Meta(gt=0)]
LayerCount = Annotated[int, msgspec.Meta(gt=0, le=10_000)]


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """A pre-norm decoder with rotary attention and gated MLPs."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    max_position: int
    """Longest context: max_position_embeddings, times the factor of a scaling that extends it."""
    norm_epsilon: float
    activation: str
    rope: RopeSpec
    attention: tuple[AttentionSpec, ...]
    """One per layer; they differ in their window at most."""
    mlp_bias: bool
    tied_embeddings: bool


class RopeScaling(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """config.json's rope_scaling, in the checkpoint's normal form."""

    rope_type: str
    factor: Annotated[float, msgspec.Meta(ge=1)] = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: Positive | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
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
    rms_norm_eps: float = 1e-6
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


def _rope(config: FamilyConfig) -> tuple[RopeSpec, int]:
    """The rotary embedding, and the positions that its scaling makes usable."""
    scaling = config.rope_scaling or RopeScaling(rope_type="default")
    if scaling.rope_type not in ROPE_TYPES:
        raise StartupError(
            f"config.json: rope_type {scaling.rope_type!r} is not supported; "
            f"supported are {', '.join(ROPE_TYPES)}"
        )
    original = scaling.original_max_position_embeddings or config.max_position_embeddings
    attention_factor = scaling.attention_factor
    if attention_factor is None:
        is_yarn = scaling.rope_type == "yarn"
        attention_factor = 0.1 * math.log(scaling.factor) + 1 if is_yarn else 1.0
    rotary_size = int(config.head_dim * config.partial_rotary_factor)
    if rotary_size < 4 or rotary_size % 2:
        raise StartupError(
            f"config.json: head_dim times partial_rotary_factor is {rotary_size}; "
            "rotary embeddings need an even number from 4 on"
        )
    spec = RopeSpec(
        rotary_size=rotary_size,
        theta=config.rope_theta,
        type=scaling.rope_type,
        factor=scaling.factor,
        low_freq_factor=scaling.low_freq_factor,
        high_freq_factor=scaling.high_freq_factor,
        original_max_position=original,
        beta_fast=scaling.beta_fast,
        beta_slow=scaling.beta_slow,
        attention_factor=attention_factor,
    )
    if scaling.rope_type in ("linear", "dynamic", "yarn"):
        return spec, int(original * scaling.factor)
    return spec, config.max_position_embeddings


def decoder_spec(
    config: FamilyConfig,
    *,
    windows: Sequence[int | None] | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
) -> DecoderSpec:
    """The spec of a family's config and of what sets the family apart.

    `windows`: one per layer, None: no layer has one. Raises StartupError for a value that no
    part of the decoder supports.
    """
    if config.hidden_act not in ACTIVATIONS:
        raise StartupError(
            f"config.json: hidden_act {config.hidden_act!r} is not supported; "
            f"supported are {', '.join(ACTIVATIONS)}"
        )
    if config.num_attention_heads % config.num_key_value_heads:
        raise StartupError(
            f"config.json: num_attention_heads ({config.num_attention_heads}) must be a multiple "
            f"of num_key_value_heads ({config.num_key_value_heads})"
        )
    layer = AttentionSpec(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_size=config.head_dim,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        qk_norm_epsilon=config.rms_norm_eps if qk_norm else None,
        window=None,
    )
    rope, max_position = _rope(config)
    windows = windows or [None] * config.num_hidden_layers
    return DecoderSpec(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        max_position=max_position,
        norm_epsilon=config.rms_norm_eps,
        activation=config.hidden_act,
        rope=rope,
        attention=tuple(replace(layer, window=window) for window in windows),
        mlp_bias=mlp_bias,
        tied_embeddings=config.tie_word_embeddings,
    )
