"""Tiny random checkpoints of every family, made by transformers: the oracle and its files."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from headrace.models import ARCHITECTURES

BASE = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}
DEEPSEEK = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 32,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 2,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "head_dim": 8,
    "v_head_dim": 24,
}
DEEPSEEK_YARN = YARN_ROPE | {"mscale": 0.7, "mscale_all_dim": 1.0}
LLAMA4 = {
    "num_local_experts": 5,
    "num_experts_per_tok": 1,
    "intermediate_size_mlp": 32,
    "interleave_moe_layer_step": 1,
    "attention_chunk_size": 24,
    "no_rope_layer_interval": 2,
    "floor_scale": 16,
    "pad_token_id": 0,
}
QWEN3_VL_MOE = {
    "text_config": BASE
    | EXPERTS
    | {
        "moe_intermediate_size": 96,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 3, 3],
            "mrope_interleaved": True,
        },
    },
    "vision_config": {
        "depth": 1,
        "num_heads": 2,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 32,
        "deepstack_visual_indexes": [0],
    },
    "image_token_id": 300,
    "video_token_id": 301,
    "vision_start_token_id": 302,
}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "LlamaForCausalLM": {
        "plain": {},
        "tied": {"tie_word_embeddings": True},
        "biases": {"attention_bias": True, "mlp_bias": True},
        "llama3-rope": {"rope_parameters": LLAMA3_ROPE},
        "linear-rope": {
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
        },
        "odd-heads": {"num_key_value_heads": 1, "head_dim": 24, "hidden_act": "gelu"},
    },
    "MistralForCausalLM": {"window": {"sliding_window": 7}, "plain": {"sliding_window": None}},
    "Qwen2ForCausalLM": {"plain": {}, "window": QWEN_WINDOW, "tied": {"tie_word_embeddings": True}},
    "Qwen3ForCausalLM": {
        "plain": {},
        "window": QWEN_WINDOW,
        "bias": {"attention_bias": True},
        "yarn": {"rope_parameters": YARN_ROPE},
    },
    "MixtralForCausalLM": {
        "plain": {"num_local_experts": 5, "num_experts_per_tok": 2},
        "window": {"num_local_experts": 4, "sliding_window": 7},
    },
    "Qwen2MoeForCausalLM": {
        "plain": EXPERTS | {"shared_expert_intermediate_size": 64},
        "window": EXPERTS
        | QWEN_WINDOW
        | {
            "shared_expert_intermediate_size": 32,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
            "qkv_bias": False,
        },
    },
    "Qwen3MoeForCausalLM": {
        "plain": EXPERTS | {"norm_topk_prob": True},
        "window": EXPERTS | QWEN_WINDOW | {"decoder_sparse_step": 2},
    },
    "Qwen3VLMoeForConditionalGeneration": {"hub": QWEN3_VL_MOE, "transformers": QWEN3_VL_MOE},
    "GraniteMoeForCausalLM": {
        "plain": LOCAL_EXPERTS | {"attention_multiplier": 0.25},
        "multipliers": LOCAL_EXPERTS
        | {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.1,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
        },
    },
    "GraniteMoeSharedForCausalLM": {"shared": LOCAL_EXPERTS | {"shared_intermediate_size": 64}},
    "OlmoeForCausalLM": {
        "plain": {"num_experts": 6, "num_experts_per_tok": 2}
        | {"eos_token_id": None, "pad_token_id": 0},
        "normalized": {"num_experts": 6, "num_experts_per_tok": 2}
        | {"eos_token_id": None, "pad_token_id": 0, "norm_topk_prob": True},
    },
    "GptOssForCausalLM": {
        "window": LOCAL_EXPERTS
        | {
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "plain": LOCAL_EXPERTS
        | {
            "layer_types": ["full_attention"] * 3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "DeepseekV2ForCausalLM": {
        "plain": DEEPSEEK | {"topk_method": "group_limited_greedy"},
        "lite": DEEPSEEK
        | {
            "q_lora_rank": None,
            "first_k_dense_replace": 0,
            "rope_parameters": DEEPSEEK_YARN,
        },
    },
    "DeepseekV3ForCausalLM": {
        "plain": DEEPSEEK | {"first_k_dense_replace": 1},
        "yarn": DEEPSEEK
        | {
            "rope_parameters": DEEPSEEK_YARN,
            "attention_bias": True,
            "norm_topk_prob": False,
        },
    },
    "Llama4ForCausalLM": {
        "plain": LLAMA4 | {"interleave_moe_layer_step": 2, "attention_bias": True},
        "scout": LLAMA4 | {"num_experts_per_tok": 2, "no_rope_layers": [0, 1, 0]},
        "no-norm": LLAMA4 | {"use_qk_norm": False, "attn_temperature_tuning": False},
    },
    "GemmaForCausalLM": {"plain": {"head_dim": 32}},
    "Gemma2ForCausalLM": {
        "window": {"sliding_window": 7, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0},
    },
    "Gemma3ForCausalLM": {
        "window": {
            "sliding_window": 7,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    },
    "Phi3ForCausalLM": {
        "plain": {"pad_token_id": 0},
        "partial": {
            "pad_token_id": 0,
            "sliding_window": 7,
            "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.75},
        },
        "long": {
            "pad_token_id": 0,
            "original_max_position_embeddings": 2,
            "rope_parameters": LONGROPE | {"attention_factor": 1.2},
        },
        "short": {
            "pad_token_id": 0,
            "original_max_position_embeddings": 512,
            "rope_parameters": LONGROPE,
        },
    },
    "GPTNeoXForCausalLM": {
        "plain": {
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
        "sequential": {
            "num_key_value_heads": 4,
            "use_parallel_residual": False,
            "attention_bias": False,
        },
    },
    "GPT2LMHeadModel": {"plain": {}, "untied": {"tie_word_embeddings": False, "n_inner": 64}},
    "GPTBigCodeForCausalLM": {"multi-query": {}, "multi-head": {"multi_query": False}},
    "Starcoder2ForCausalLM": {
        "window": {"sliding_window": 7},
        "plain": {"use_bias": False, "tie_word_embeddings": False},
    },
    "GraniteForCausalLM": {
        "multipliers": {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.1,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "rms_norm_eps": 1e-2,
        },
        "plain": {},
    },
    "OlmoForCausalLM": {"plain": {"pad_token_id": 0}, "clip": {"clip_qkv": 0.5, "pad_token_id": 0}},
    "Olmo2ForCausalLM": {"plain": {"pad_token_id": 0}},
    "SmolLM3ForCausalLM": {
        "plain": {"pad_token_id": 0, "no_rope_layer_interval": 2, "tie_word_embeddings": False},
        "window": {
            "pad_token_id": 0,
            "no_rope_layers": [1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": 7,
        },
    },
    "CohereForCausalLM": {"plain": {}, "norms": {"use_qk_norm": True, "attention_bias": True}},
    "Cohere2ForCausalLM": {
        "window": {
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    },
    "FalconForCausalLM": {
        "7b": {},
        "40b": {"new_decoder_architecture": True, "num_kv_heads": 2},
        "11b": {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
        },
        "rw": {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    },
    "Glm4ForCausalLM": {"plain": {"pad_token_id": 0}},
    "GPTJForCausalLM": {"plain": {"rotary_dim": 8}},
    "OPTForCausalLM": {
        "plain": {},
        "350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 32},
    },
    "BloomForCausalLM": {"plain": {}, "odd-heads": {"hidden_size": 48, "n_head": 3}},
    "MptForCausalLM": {
        "plain": {},
        "odd-heads": {"d_model": 48, "n_heads": 3, "attn_config": {"clip_qkv": 1.0}},
    },
    "StableLmForCausalLM": {
        "plain": {"use_qkv_bias": True},
        "parallel": {"use_parallel_residual": True, "qk_layernorm": True},
    },
}
GPT2_BASE = {
    "vocab_size": 199,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 512,
    "initializer_range": 0.2,
}
BASES: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": GPT2_BASE,
    "GPTBigCodeForCausalLM": GPT2_BASE,
    "GPTJForCausalLM": GPT2_BASE,
    "BloomForCausalLM": {
        "vocab_size": 199, "hidden_size": 64, "n_layer": 3, "n_head": 4, "initializer_range": 0.2,
    },
    "MptForCausalLM": {
        "vocab_size": 199, "d_model": 64, "n_layers": 3, "n_heads": 4, "max_seq_len": 512,
        "initializer_range": 0.2,
    },
    "OPTForCausalLM": {
        "vocab_size": 199, "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 512, "init_std": 0.2,
    },
    "FalconForCausalLM": {
        "vocab_size": 199, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 512, "initializer_range": 0.2,
    },
    "Qwen3VLMoeForConditionalGeneration": {},
}  # fmt: skip
"""Of architectures whose configs have other names."""


def cases_of(architecture: str) -> dict[str, dict[str, Any]]:
    """Changes to its config by case. A family is tested once it is registered."""
    return CASES.get(architecture, {"plain": {}})


ALL_CASES = [
    pytest.param((architecture, case), id=f"{architecture}-{case}")
    for architecture in ARCHITECTURES
    for case in cases_of(architecture)
]


def make_checkpoint(
    folder: Path, architecture: str, case: str | dict[str, Any], **save: Any
) -> Any:
    """Save a tiny model with every parameter random; returns it for comparison."""
    changes = cases_of(architecture)[case] if isinstance(case, str) else case
    torch.manual_seed(sum(map(ord, architecture + str(changes))))
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**BASES.get(architecture, BASE) | changes)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(torch.randn_like(buffer) * 0.2)
    model.save_pretrained(folder, **save)
    if case == "hub":
        transpose_experts(folder / "model.safetensors")
    return model


def transpose_experts(path: Path) -> None:
    """As the hub has Qwen3-VL's: transformers reads both orders, and writes its own."""
    tensors = load_file(path)
    for name in tensors:
        if ".experts." in name:
            tensors[name] = tensors[name].mT.contiguous()
    save_file(tensors, path, {"format": "pt"})
