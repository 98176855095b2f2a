"""Qwen3-MoE: Qwen3 with mixtures of experts."""

from typing import Any

from headrace.models import qwen3
from headrace.models.family import FamilyConfig, read_config
from headrace.models.mixture import moe_spec
from headrace.models.qwen2_moe import QwenMoEConfig, qwen_mixtures
from headrace.models.spec import DecoderSpec


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    moe = read_config(QwenMoEConfig, config)
    mixture = moe_spec(read_config(FamilyConfig, config), moe)
    # Where there is a window it is over all layers.
    dense = qwen3.spec(config | {"max_window_layers": 0})
    return qwen_mixtures(dense, moe, mixture)
