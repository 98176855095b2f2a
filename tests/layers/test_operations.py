"""Norms against those of transformers and torch."""

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from headrace.layers.operations import NormParameters, normalize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_llamas(dtype: torch.dtype) -> None:
    x, norm = torch.randn(7, 48).to(dtype), LlamaRMSNorm(48, 1e-3).to(dtype)
    torch.nn.init.normal_(norm.weight)
    actual = normalize(x, NormParameters("rms", 1e-3, norm.weight.detach()))
    torch.testing.assert_close(actual, norm(x))


def test_wide_weight_is_applied_before_rounding() -> None:
    x, norm = torch.randn(7, 48).bfloat16(), GemmaRMSNorm(48, 1e-3).bfloat16()
    torch.nn.init.normal_(norm.weight, std=0.01)
    actual = normalize(x, NormParameters("rms", 1e-3, norm.weight.detach().float() + 1))
    assert torch.equal(actual, norm(x))


def test_layer_norm_is_torchs() -> None:
    x, weight, bias = torch.randn(7, 48) + 3, torch.randn(48), torch.randn(48)
    expected = torch.nn.functional.layer_norm(x, (48,), weight, bias, 1e-3)
    torch.testing.assert_close(normalize(x, NormParameters("layer", 1e-3, weight, bias)), expected)


def test_statistics_are_wide() -> None:
    """The square of 1000 overflows float16; the norm must not."""
    x = torch.full((1, 8), 1000.0, dtype=torch.float16)
    norm = NormParameters("rms", 1e-6, torch.ones(8, dtype=torch.float16))
    assert torch.equal(normalize(x, norm), torch.ones_like(x))
