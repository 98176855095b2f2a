"""Rotary position embedding (Su et al. 2021) and its scalings, in the half-split convention.

Angles depend on the token's position alone, never on the batch: a token has the same key
whether its prompt came in one chunk or many.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True)
class RopeSpec:
    """Rotary embedding as config.json describes it (rope_parameters)."""

    rotary_size: int
    """Leading elements of each head that rotate; even."""
    theta: float
    type: str = "default"
    """One of ROPE_TYPES."""
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    """Positions the model was trained for before scaling (dynamic, llama3, yarn)."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    """yarn: turns within the original positions above and below which to keep and to divide."""
    is_truncated: bool = True
    """yarn: the dimensions between which to blend are rounded outwards."""
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    """longrope: divisors of the frequencies, for contexts up to the original and longer ones."""
    attention_factor: float = 1.0
    """Multiplies cosines and sines (yarn, longrope)."""


def llama3_scaling(frequencies: Tensor, spec: RopeSpec) -> Tensor:
    """Divide low frequencies by the factor, keep high ones, blend between (Llama 3.1)."""
    turns = spec.original_max_position * frequencies / (2 * math.pi)
    blend = (turns - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor)
    blend = blend.clamp(0, 1)
    return (1 - blend) * frequencies / spec.factor + blend * frequencies


def yarn_scaling(frequencies: Tensor, spec: RopeSpec) -> Tensor:
    """As llama3's, but blended along the dimensions (YaRN, Peng et al. 2023)."""

    def dimension(turns: float) -> float:
        wavelength = spec.original_max_position / (2 * math.pi * turns)
        return spec.rotary_size * math.log(wavelength) / (2 * math.log(spec.theta))

    low, high = dimension(spec.beta_fast), dimension(spec.beta_slow)
    if spec.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.rotary_size - 1)
    index = torch.arange(len(frequencies), device=frequencies.device)
    divided = ((index - low) / max(high - low, 1e-3)).clamp(0, 1)
    return divided * frequencies / spec.factor + (1 - divided) * frequencies


class RotaryEmbedding:
    """Angles for positions; the layers apply them with `rotate`."""

    def __init__(self, spec: RopeSpec, device: torch.device, max_position: int) -> None:
        """`max_position`: the longest context there can be. It alone decides on longrope's
        factors, as in vLLM and llama.cpp, so that all keys in the cache agree, whatever their
        sequence's length. transformers goes by each prompt's: a server that admits contexts up to
        the original length has its short factors, and one that admits more has its long ones."""
        self.spec = spec
        self._exponents = (
            torch.arange(0, spec.rotary_size, 2, dtype=torch.float32, device=device)
            / spec.rotary_size
        )
        frequencies = 1.0 / spec.theta**self._exponents
        if spec.type == "linear":
            frequencies = frequencies / spec.factor
        elif spec.type == "llama3":
            frequencies = llama3_scaling(frequencies, spec)
        elif spec.type == "yarn":
            frequencies = yarn_scaling(frequencies, spec)
        elif spec.type == "longrope":
            is_long = max_position > spec.original_max_position
            divisors = spec.long_factors if is_long else spec.short_factors
            frequencies = frequencies / torch.tensor(divisors, device=device)
        self._frequencies = frequencies

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [T] int32 to cosines and sines, each [T, rotary_size / 2] float32.

        They carry the attention factor.
        """
        frequencies = self._frequencies
        if self.spec.type == "dynamic":
            frequencies = self._dynamic_frequencies(positions)
        angles = positions.float().unsqueeze(1) * frequencies
        factor = self.spec.attention_factor
        return angles.cos() * factor, angles.sin() * factor

    def _dynamic_frequencies(self, positions: Tensor) -> Tensor:
        """[T, rotary_size / 2]: NTK-aware base grown with the length up to each position.

        Equal to transformers' where the prompt is within the trained length and tokens come
        one by one after it; there, a longer prompt's angles depend on its whole length.
        """
        spec = self.spec
        excess = (positions.double() + 1) / spec.original_max_position
        growth = spec.factor * excess.clamp(min=1) - (spec.factor - 1)
        bases = spec.theta * growth ** (spec.rotary_size / (spec.rotary_size - 2))
        return (1.0 / bases.unsqueeze(1) ** self._exponents).float()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate x [T, heads, head_size] by angles [T, rotary_size / 2]; the rest passes through."""
    half = cosines.shape[-1]
    cosines, sines = cosines.unsqueeze(1).to(x.dtype), sines.unsqueeze(1).to(x.dtype)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    rotated = (first * cosines - second * sines, second * cosines + first * sines, rest)
    return torch.cat(rotated, dim=-1)
