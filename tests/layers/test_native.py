"""What of a decoder the kernels refuse; that they compute it right is `tests/models`' matter."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from headrace.errors import StartupError
from headrace.kernels import load as load_kernels
from headrace.layers.attention import AttentionSpec, HeadNormSpec
from headrace.layers.mlp import MLPSpec
from headrace.layers.native import expert_weights, unsupported
from headrace.layers.norm import NormSpec
from headrace.layers.operations import Expert
from headrace.quantization import Target
from headrace.quantization.place import place
from headrace.quantization.rounding import round_integers

ATTENTION = AttentionSpec(hidden_size=64, num_heads=4, num_kv_heads=2, head_size=16, scale=0.25)
LAYER_NORM = NormSpec(epsilon=1e-5, kind="layer")
BIASED_NORM = NormSpec(epsilon=1e-5, kind="layer", has_bias=True)
MLP = MLPSpec(intermediate_size=96, activation="silu")


@pytest.mark.parametrize(
    ("hidden", "attention", "mlp", "reason"),
    [
        (576, {}, {"intermediate_size": 1536}, None),
        (64, {}, {"activation": "gelu_pytorch_tanh"}, None),
        (64, {}, {"activation": "relu2"}, "activation relu2"),
        (64, {"head_norm": HeadNormSpec(norm=LAYER_NORM, has_weight_per_head=True)}, {}, None),
        (64, {"head_norm": HeadNormSpec(norm=BIASED_NORM)}, {}, "norms of each query"),
        (64, {"head_norm": HeadNormSpec(norm=LAYER_NORM, is_joint=True)}, {}, None),
        (100, {}, {}, "hidden size 100"),
        (64, {}, {"intermediate_size": 100}, "intermediate size 100"),
        (64, {"clip": 8.0}, {}, None),
        (
            64,
            {"clip": 8.0, "head_norm": HeadNormSpec(norm=LAYER_NORM, is_joint=True)},
            {},
            "clamped before",
        ),
    ],
)
def test_reasons(
    hidden: int, attention: dict[str, Any], mlp: dict[str, Any], reason: str | None
) -> None:
    actual = unsupported(hidden, replace(ATTENTION, **attention), replace(MLP, **mlp))
    assert actual is None if reason is None else actual is not None and reason in actual


NARROW = round_integers(torch.randn(32, 64), 4, 32)
SHUFFLED = replace(NARROW, group_index=(torch.arange(64) % 2).int())


def test_experts_that_the_kernels_refuse() -> None:
    target = Target(dtype=torch.float32, device=torch.device("cpu"), kernels=load_kernels())
    gate_up = place([SHUFFLED, SHUFFLED], target, ["gate", "up"])
    down = place([torch.randn(64, 32)], target, ["down"])
    with pytest.raises(StartupError, match="in another order"):
        expert_weights([Expert(gate_up, None, "silu", down, None)])
