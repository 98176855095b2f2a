"""Rotary angles and rotation against transformers."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from headrace.layers.rope import RopeSpec, RotaryEmbedding, rotate

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES: dict[str, tuple[dict[str, Any], RopeSpec]] = {
    "default": ({}, RopeSpec(rotary_size=16, theta=1e4)),
    "linear": ({"factor": 4.0}, RopeSpec(rotary_size=16, theta=1e4, type="linear", factor=4.0)),
    "llama3": (
        {"factor": 8.0, "original_max_position_embeddings": 64, **LLAMA3},
        RopeSpec(
            rotary_size=16, theta=1e4, type="llama3", factor=8.0, original_max_position=64, **LLAMA3
        ),
    ),
    "yarn": (
        {"factor": 4.0, "original_max_position_embeddings": 64},
        RopeSpec(
            rotary_size=16,
            theta=1e4,
            type="yarn",
            factor=4.0,
            original_max_position=64,
            attention_factor=0.1 * math.log(4.0) + 1,
        ),
    ),
    "yarn-exact": (
        {"factor": 4.0, "original_max_position_embeddings": 64, "truncate": False},
        RopeSpec(
            rotary_size=16,
            theta=1e4,
            type="yarn",
            factor=4.0,
            original_max_position=64,
            is_truncated=False,
            attention_factor=0.1 * math.log(4.0) + 1,
        ),
    ),
    "dynamic": (
        {"factor": 2.0},
        RopeSpec(rotary_size=16, theta=1e4, type="dynamic", factor=2.0, original_max_position=100),
    ),
}


def reference(parameters: dict[str, Any]) -> LlamaRotaryEmbedding:
    return LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            max_position_embeddings=100,
            rope_parameters={"rope_theta": 1e4, **parameters},
        )
    )


@pytest.mark.parametrize("kind", CASES)
def test_angles_match_transformers(kind: str) -> None:
    parameters, spec = CASES[kind]
    embedding = reference({"rope_type": spec.type, **parameters})
    positions = torch.tensor([0, 1, 2, 50, 63, 99, 100, 101, 500, 4000], dtype=torch.int32)
    cosines, sines = RotaryEmbedding(spec, torch.device("cpu"), 4096)(positions)
    assert cosines.shape == sines.shape == (10, 8)
    for position, cosine, sine in zip(positions, cosines, sines, strict=True):
        expected = embedding(torch.zeros(1), position.view(1, 1))
        for ours, theirs in zip((cosine, sine), expected, strict=True):
            torch.testing.assert_close(ours, theirs[0, 0, :8], rtol=1e-4, atol=1e-3)


def test_rotation_matches_transformers() -> None:
    x = torch.randn(5, 3, 16)
    positions = torch.arange(5)
    cosines, sines = reference({"rope_type": "default"})(x, positions[None])
    expected, _ = apply_rotary_pos_emb(x[None], x[None], cosines, sines, unsqueeze_dim=2)
    actual = rotate(x, *RotaryEmbedding(CASES["default"][1], torch.device("cpu"), 4096)(positions))
    torch.testing.assert_close(actual, expected[0])


def test_partial_rotation_leaves_the_rest_alone() -> None:
    x = torch.randn(5, 3, 24)
    angles = RotaryEmbedding(CASES["default"][1], torch.device("cpu"), 4096)(torch.arange(5))
    actual = rotate(x, *angles)
    assert torch.equal(actual[..., 16:], x[..., 16:])
    torch.testing.assert_close(actual[..., :16], rotate(x[..., :16], *angles))


@pytest.mark.parametrize("max_position", [100, 101])
def test_longrope_goes_by_the_longest_context(max_position: int) -> None:
    """transformers goes by each prompt's length: one up to 100 tokens, and a longer one."""
    short, long = [1 + i / 8 for i in range(8)], [2.0 + i for i in range(8)]
    spec = RopeSpec(
        rotary_size=16,
        theta=1e4,
        type="longrope",
        original_max_position=100,
        short_factors=tuple(short),
        long_factors=tuple(long),
        attention_factor=1.5,
    )
    embedding = reference(
        {
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            "attention_factor": 1.5,
            "original_max_position_embeddings": 100,
        }
    )
    positions = torch.arange(max_position)
    actual = RotaryEmbedding(spec, torch.device("cpu"), max_position)(positions)
    expected = embedding(torch.zeros(1), positions[None])
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs[0, :, :8], rtol=1e-4, atol=1e-4)
