"""From config.json's rope_scaling to a `RopeSpec`."""

import math
from typing import Annotated

import msgspec

from headrace.errors import StartupError
from headrace.layers.rope import ROPE_TYPES, RopeSpec
from headrace.models.fields import Positive, PositiveFloat

Divisors = tuple[PositiveFloat, ...]
EXTENDING_TYPES = ("linear", "dynamic", "yarn")
"""Those whose factor multiplies the positions that can be used."""


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
    short_factor: Divisors = ()
    long_factor: Divisors = ()
    attention_factor: float | None = None


def rope_spec(
    scaling: RopeScaling,
    *,
    theta: float,
    head_size: int,
    rotary_size: int,
    longest: int,
    original: int | None,
) -> RopeSpec:
    """`longest`: max_position_embeddings; `original`: where the config says it outside of the
    scaling. Raises StartupError naming what is not supported."""
    _check(scaling, head_size, rotary_size)
    trained = scaling.original_max_position_embeddings or original or longest
    by_default = longest / trained if scaling.rope_type == "longrope" else 1.0
    factor = by_default if scaling.factor is None else scaling.factor
    return RopeSpec(
        rotary_size=rotary_size,
        theta=theta,
        type=scaling.rope_type,
        factor=factor,
        low_freq_factor=scaling.low_freq_factor,
        high_freq_factor=scaling.high_freq_factor,
        original_max_position=trained,
        beta_fast=scaling.beta_fast,
        beta_slow=scaling.beta_slow,
        is_truncated=scaling.truncate,
        short_factors=scaling.short_factor,
        long_factors=scaling.long_factor,
        attention_factor=_attention_factor(scaling, factor, trained),
    )


def _check(scaling: RopeScaling, head_size: int, rotary_size: int) -> None:
    if scaling.rope_type not in ROPE_TYPES:
        raise StartupError(
            f"config.json: rope_type {scaling.rope_type!r} is not supported; "
            f"supported are {', '.join(ROPE_TYPES)}"
        )
    if not 4 <= rotary_size <= head_size or rotary_size % 2:
        raise StartupError(
            f"config.json: {rotary_size} of a head's {head_size} elements shall rotate "
            "(head_dim times partial_rotary_factor); allowed are even numbers from 4 on"
        )
    if scaling.rope_type != "longrope":
        return
    for name in ("short_factor", "long_factor"):
        if (length := len(getattr(scaling, name))) != rotary_size // 2:
            raise StartupError(
                f"config.json: rope_scaling.{name} has {length} entries, "
                f"{rotary_size // 2} are needed"
            )


def _attention_factor(scaling: RopeScaling, factor: float, trained: int) -> float:
    """What multiplies cosines and sines (YaRN, Peng et al. 2023; LongRoPE, Ding et al. 2024)."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if factor <= 1 or scaling.rope_type not in ("yarn", "longrope"):
        return 1.0
    if scaling.rope_type == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(trained))

    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1

    if scaling.mscale and scaling.mscale_all_dim:
        return grown(scaling.mscale) / grown(scaling.mscale_all_dim)
    return grown(1.0)
