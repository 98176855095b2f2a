"""The fields of config.json that only some GGUF architectures have.

Source: llama.cpp's converters, and its loader for what no key says.
"""

from collections.abc import Callable
from typing import Any

from headrace.checkpoint.gguf_metadata import GGUFMetadata

Fields = dict[str, Any]
LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}
"""By model type: how llama.cpp knows the size whose scores are scaled by hidden size over heads."""
GEMMA3_PATTERN = 6
"""Every sixth layer has no window."""


def gemma_fields(metadata: GGUFMetadata, fields: Fields) -> Fields:
    return {"hidden_act": "gelu_pytorch_tanh"}


def _query_scale(metadata: GGUFMetadata, fields: Fields) -> int:
    if fields["num_hidden_layers"] == LAYERS_OF_27B[fields["model_type"]]:
        return int(fields["hidden_size"] // fields["num_attention_heads"])
    return int(fields["head_dim"])


def gemma2_fields(metadata: GGUFMetadata, fields: Fields) -> Fields:
    return {
        **gemma_fields(metadata, fields),
        "query_pre_attn_scalar": _query_scale(metadata, fields),
        "sliding_window": metadata.get("attention.sliding_window", int, 4096),
        "attn_logit_softcapping": metadata.get("attn_logit_softcapping", float, 50.0),
        "final_logit_softcapping": metadata.get("final_logit_softcapping", float, 30.0),
    }


def gemma3_fields(metadata: GGUFMetadata, fields: Fields) -> Fields:
    return {
        **gemma_fields(metadata, fields),
        "query_pre_attn_scalar": _query_scale(metadata, fields),
        "sliding_window": metadata.get("attention.sliding_window", int),
        "sliding_window_pattern": GEMMA3_PATTERN,
        "rope_local_base_freq": metadata.get("rope.freq_base_swa", float, 10_000.0),
        "rope_theta": metadata.get("rope.freq_base", float, 1_000_000.0),
    }


def phi3_fields(metadata: GGUFMetadata, fields: Fields) -> Fields:
    """A window of 0 stands for none."""
    return {"sliding_window": metadata.get("attention.sliding_window", int, 0) or None}


def llama_fields(metadata: GGUFMetadata, fields: Fields) -> Fields:
    """With experts it is a Mixtral."""
    if not metadata.get("expert_count", int, 0):
        return {}
    mixtral = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    return mixtral | _expert_counts(metadata)


def qwen2_moe_fields(metadata: GGUFMetadata, fields: Fields) -> Fields:
    """Older files do not say how large an expert is: llama.cpp divides by how many a token has."""
    counts, size = _expert_counts(metadata), fields["intermediate_size"]
    expert_size = size // max(counts["num_experts_per_tok"], 1)
    return {
        **counts,
        "moe_intermediate_size": metadata.get("expert_feed_forward_length", int, expert_size),
        "shared_expert_intermediate_size": metadata.get(
            "expert_shared_feed_forward_length", int, size
        ),
        "qkv_bias": fields["attention_bias"],
        "norm_topk_prob": False,
    }


def qwen3_moe_fields(metadata: GGUFMetadata, fields: Fields) -> Fields:
    return {
        **_expert_counts(metadata),
        "moe_intermediate_size": metadata.get("expert_feed_forward_length", int),
        "norm_topk_prob": True,
    }


def _expert_counts(metadata: GGUFMetadata) -> Fields:
    return {
        "num_experts": metadata.get("expert_count", int),
        "num_experts_per_tok": metadata.get("expert_used_count", int),
    }


def longrope_scaling(metadata: GGUFMetadata) -> Fields:
    """Phi-3's, whose divisors are tensors."""
    return {
        "rope_type": "longrope",
        "short_factor": metadata.floats("rope_factors_short.weight").tolist(),
        "long_factor": metadata.floats("rope_factors_long.weight").tolist(),
        "original_max_position_embeddings": metadata.get(
            "rope.scaling.original_context_length", int
        ),
        "attention_factor": metadata.get("rope.scaling.attn_factor", float, 1.0),
    }


FAMILY_FIELDS: dict[str, Callable[[GGUFMetadata, Fields], Fields]] = {
    "gemma": gemma_fields,
    "gemma2": gemma2_fields,
    "gemma3": gemma3_fields,
    "llama": llama_fields,
    "phi3": phi3_fields,
    "qwen2moe": qwen2_moe_fields,
    "qwen3moe": qwen3_moe_fields,
}
"""By GGUF architecture: what to add to, or change in, the fields that all have."""
