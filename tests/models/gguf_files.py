"""Writes GGUF files as llama.cpp's converter does, out of transformers models."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

ARCHITECTURES = {
    "LlamaForCausalLM": ("llama", gguf.MODEL_ARCH.LLAMA),
    "Qwen2ForCausalLM": ("qwen2", gguf.MODEL_ARCH.QWEN2),
    "Qwen3ForCausalLM": ("qwen3", gguf.MODEL_ARCH.QWEN3),
}


def permute(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """The converter's reordering of Llama's query and key rows."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def stored_type(array: np.ndarray, type: GGMLQuantizationType) -> GGMLQuantizationType:
    return type if array.ndim > 1 else GGMLQuantizationType.F32


def write_gguf(path: Path, model: Any, type: GGMLQuantizationType) -> None:
    """Save `model` with its matrices as `type`, and round its own matrices to what was saved."""
    config = model.config
    name, architecture = ARCHITECTURES[config.architectures[0]]
    writer = gguf.GGUFWriter(path, name)
    write_metadata(writer, config)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for parameter, tensor in model.state_dict().items():
        if parameter == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        num_heads = heads.get(parameter.split(".")[-2]) if name == "llama" else None
        blocks = quantize(array, stored_type(array, type))
        tensor.copy_(torch.from_numpy(dequantize(blocks, stored_type(array, type))))
        stored = names.get_name(parameter, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(
            stored,
            permute(blocks, num_heads) if num_heads else blocks,
            raw_dtype=stored_type(array, type),
        )
    if config.rope_parameters["rope_type"] == "llama3":
        divisors = default_frequencies(config) / model.model.rotary_emb.inv_freq
        writer.add_tensor("rope_freqs.weight", divisors.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def default_frequencies(config: Any) -> torch.Tensor:
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
    return 1.0 / config.rope_parameters["rope_theta"] ** exponents


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
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
