"""The text part of Qwen3-VL's mixtures: Qwen3-MoE with all experts of a layer in one tensor.

They are transposed, as on the hub; transformers 5 may write them otherwise, which is refused.
"""

from dataclasses import replace
from typing import Any

from headrace.layers.moe import MoESpec
from headrace.models import qwen3_moe
from headrace.models.sources import stacked_experts
from headrace.models.spec import DecoderSpec
from headrace.weights.naming import Source, part


def spec(config: dict[str, Any]) -> DecoderSpec:
    """Describe the model. Raises StartupError naming the field that cannot be used."""
    decoder = qwen3_moe.spec(config | {"norm_topk_prob": True})
    mixture = next(layer.mlp for layer in decoder.layers if isinstance(layer.mlp, MoESpec))
    size = mixture.expert.intermediate_size
    experts = stacked_experts(
        Source("mlp.experts.gate_up_proj", is_transposed=True, is_parameter=True),
        gate=part(0, size),
        up=part(size, size),
        down=Source("mlp.experts.down_proj", is_transposed=True, is_parameter=True),
        num_experts=mixture.router.num_experts,
    )
    inner = {**decoder.naming.inner, **experts}
    return replace(decoder, naming=replace(decoder.naming, inner=inner))
