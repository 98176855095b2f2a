"""Architectures that are not native, each with what is special about its attention or head."""

from typing import Any

import pytest
import torch

FALLBACK: dict[str, dict[str, Any]] = {
    "ApertusForCausalLM": {},
    "ArceeForCausalLM": {"tie_word_embeddings": True},
    "DiffLlamaForCausalLM": {},  # two values side by side per key
    "Ernie4_5_MoeForCausalLM": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32},
    "Exaone4ForCausalLM": {
        "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "FlexOlmoForCausalLM": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "pad_token_id": 0,
        "eos_token_id": None,
    },
    "Gemma4ForCausalLM": {  # global layers have larger heads
        "global_head_dim": 32,
        "sliding_window": 9,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "vocab_size_per_layer_input": 199,
        "hidden_size_per_layer_input": 8,
    },
    "GraniteSWAForCausalLM": {"sliding_window": 7, "pad_token_id": 0},  # sinks
    "HunYuanMoEV1ForCausalLM": {"num_experts": 4, "moe_topk": 2},
    "MiMoV2FlashForCausalLM": {  # layers under a window have more key heads
        "sliding_window": 9,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
    "MinistralForCausalLM": {"sliding_window": 7},
    "ModernBertDecoderForCausalLM": {  # calls the last matrix of its head its decoder
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "NanoChatForCausalLM": {"final_logit_softcapping": 3.0},  # no parameters but linear ones
    "NemotronForCausalLM": {"hidden_act": "relu2"},  # hands no arguments down to attention
    "PersimmonForCausalLM": {},
    "VaultGemmaForCausalLM": {
        "sliding_window": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 7,
    },
    "YoutuForCausalLM": {  # latent attention: values narrower than keys
        "head_dim": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "q_lora_rank": 24,
        "kv_lora_rank": 32,
        "num_key_value_heads": 4,
    },
}
FALLBACK_CASES = [
    pytest.param((architecture, changes), id=f"{architecture}-fallback")
    for architecture, changes in FALLBACK.items()
]


def plain_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    """[T, V], by transformers alone."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits
    return logits[0]
