"""llama.cpp's names of tensors, by the Hugging Face names of a model's parameters.

Source: `tensor_mapping.py` of llama.cpp's gguf package.
"""

import re

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
QWEN_EXPERTS = {
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
"""All experts of a layer are in one tensor: their numbers are left out of its name."""
OTHER_LAYER_NAMES = {
    "gemma2": GEMMA_NORMS,
    "gemma3": GEMMA_NORMS,
    "llama": {  # Mixtral's files say so
        "block_sparse_moe.gate": "ffn_gate_inp",
        "block_sparse_moe.experts.w1": "ffn_gate_exps",
        "block_sparse_moe.experts.w2": "ffn_down_exps",
        "block_sparse_moe.experts.w3": "ffn_up_exps",
    },
    "qwen2moe": {
        **QWEN_EXPERTS,
        "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
        "mlp.shared_expert.up_proj": "ffn_up_shexp",
        "mlp.shared_expert.down_proj": "ffn_down_shexp",
        "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    },
    "qwen3moe": QWEN_EXPERTS,
    "phi3": {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
}
"""By architecture: where its names differ from LAYER_NAMES, or add to them."""
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
EXPERT = re.compile(r"(.+\.experts)\.(\d+)(\..+)")


def gguf_name(name: str, architecture: str) -> str | None:
    """llama.cpp's name of a Hugging Face parameter; None if it has none."""
    prefix, _, suffix = name.rpartition(".")
    if layer := LAYER.fullmatch(prefix):
        names = LAYER_NAMES | OTHER_LAYER_NAMES.get(architecture, {})
        inner = names.get(layer[2])
        return inner and f"blk.{layer[1]}.{inner}.{suffix}"
    outer = NAMES.get(prefix)
    return outer and f"{outer}.{suffix}"


def stored_names(name: str, architecture: str) -> list[tuple[str, int | None]]:
    """Where a parameter may be: a tensor's name, and which expert's part of it."""
    expert = EXPERT.fullmatch(name)
    if expert is None:
        stored = gguf_name(name, architecture)
        return [] if stored is None else [(stored, None)]
    together = gguf_name(expert[1] + expert[3], architecture)
    if together is None:
        return []
    # Until April 2024 each expert had tensors of its own.
    alone = together.replace("_exps.", f".{expert[2]}.")
    return [(together, int(expert[2])), (alone, None)]
