"""The text part of Qwen3-VL's mixtures: Qwen3-MoE with all experts of a layer in one tensor.

On the hub they are transposed, and as transformers 5 writes them they are not.
"""

from dataclasses import replace
from typing import Any

from headrace.layers.moe import MoESpec
from headrace.models import qwen3_moe
from headrace.models.sources import stacked_experts
from headrace.models.spec import DecoderSpec
from headrace.weights.naming import Source


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    decoder = qwen3_moe.spec(config | {"norm_topk_prob": True})
    mixture = next(layer.mlp for layer in decoder.layers if isinstance(layer.mlp, MoESpec))
    size = mixture.expert.intermediate_size
    experts = stacked_experts(
        Source("mlp.experts.gate_up_proj", in_features=decoder.hidden_size, is_parameter=True),
        Source("mlp.experts.down_proj", in_features=size, is_parameter=True),
        mixture,
    )
    inner = {**decoder.naming.inner, **experts}
    return replace(decoder, naming=replace(decoder.naming, inner=inner))
