"""Writes GGUF files as llama.cpp's converter does, out of transformers models."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

ARCHITECTURES = {
    "GemmaForCausalLM": ("gemma", gguf.MODEL_ARCH.GEMMA),
    "Gemma2ForCausalLM": ("gemma2", gguf.MODEL_ARCH.GEMMA2),
    "Gemma3ForCausalLM": ("gemma3", gguf.MODEL_ARCH.GEMMA3),
    "LlamaForCausalLM": ("llama", gguf.MODEL_ARCH.LLAMA),
    "MixtralForCausalLM": ("llama", gguf.MODEL_ARCH.LLAMA),
    "Phi3ForCausalLM": ("phi3", gguf.MODEL_ARCH.PHI3),
    "Qwen2ForCausalLM": ("qwen2", gguf.MODEL_ARCH.QWEN2),
    "Qwen2MoeForCausalLM": ("qwen2moe", gguf.MODEL_ARCH.QWEN2MOE),
    "Qwen3ForCausalLM": ("qwen3", gguf.MODEL_ARCH.QWEN3),
    "Qwen3MoeForCausalLM": ("qwen3moe", gguf.MODEL_ARCH.QWEN3MOE),
}


def permute(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """The converter's reordering of Llama's query and key rows."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def stored_type(array: np.ndarray, type: GGMLQuantizationType) -> GGMLQuantizationType:
    return type if array.ndim > 1 else GGMLQuantizationType.F32


def write_gguf(
    path: Path,
    model: Any,
    type: GGMLQuantizationType,
    others: Mapping[str, GGMLQuantizationType] = MappingProxyType({}),
    *,
    has_single_experts: bool = False,
) -> None:
    """Save `model` with its matrices as `type`, those of layers in `others` ("v_proj") as these,
    and round its own matrices to what was saved.

    `has_single_experts`: each in tensors of its own, as before April 2024.
    """
    config = model.config
    name, architecture = ARCHITECTURES[config.architectures[0]]
    writer = gguf.GGUFWriter(path, name)
    write_metadata(writer, config)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for parameter, tensor in named_parts(model):
        if parameter == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        layer = parameter.split(".")[-2]
        num_heads = heads.get(layer) if name == "llama" else None
        stored = names.get_name(parameter, try_suffixes=(".weight", ".bias"))
        is_router = "ffn_gate_inp" in stored
        matrix_type = GGMLQuantizationType.F32 if is_router else others.get(layer, type)
        own_type = stored_type(array.squeeze(), matrix_type)
        blocks = quantize(array, own_type)
        tensor.copy_(torch.from_numpy(dequantize(blocks, own_type)))
        if name.startswith("gemma") and parameter.endswith("norm.weight"):
            blocks = blocks + 1
        blocks = permute(blocks, num_heads) if num_heads else blocks.squeeze()
        if has_single_experts and ".experts." in parameter:
            for expert, own in enumerate(blocks):
                single = stored.replace("_exps.", f".{expert}.")
                writer.add_tensor(single, own, raw_dtype=own_type)
        else:
            writer.add_tensor(stored, blocks, raw_dtype=own_type)
    write_rope(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def named_parts(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters under names that the converters know: views, so that they can be changed."""
    for name, tensor in model.state_dict().items():
        prefix, _, last = name.rpartition(".")
        if last == "gate_up_proj" and prefix.endswith("experts"):
            for kind, part in zip(("gate", "up"), tensor.chunk(2, 1), strict=True):
                yield f"{prefix}.{kind}_proj.weight", part
        elif prefix.endswith("experts"):
            yield f"{name}.weight", tensor
        else:
            yield name, tensor


def default_frequencies(config: Any) -> torch.Tensor:
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
    return 1.0 / config.rope_parameters["rope_theta"] ** exponents


def write_rope(writer: gguf.GGUFWriter, model: Any) -> None:
    """What the converters say of the rotary embedding, in keys and tensors."""
    parameters = model.config.rope_parameters
    parameters = parameters.get("full_attention", parameters)
    writer.add_rope_freq_base(parameters["rope_theta"])
    share = parameters.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(model.config.head_dim * share))
    if parameters["rope_type"] == "llama3":
        divisors = default_frequencies(model.config) / model.model.rotary_emb.inv_freq
        writer.add_tensor("rope_freqs.weight", divisors.numpy())
    elif parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(parameters["factor"])
    elif parameters["rope_type"] == "longrope":
        writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])
        writer.add_rope_scaling_attn_factors(parameters["attention_factor"])
        for length in ("short", "long"):
            factors = np.array(parameters[f"{length}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", factors)


def write_metadata(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    optional = {
        "sliding_window": writer.add_sliding_window,
        "attn_logit_softcapping": writer.add_attn_logit_softcapping,
        "final_logit_softcapping": writer.add_final_logit_softcapping,
        "num_experts": writer.add_expert_count,
        "num_experts_per_tok": writer.add_expert_used_count,
        "moe_intermediate_size": writer.add_expert_feed_forward_length,
        "shared_expert_intermediate_size": writer.add_expert_shared_feed_forward_length,
    }
    for name, add in optional.items():
        if getattr(config, name, None) is not None:
            add(getattr(config, name))
