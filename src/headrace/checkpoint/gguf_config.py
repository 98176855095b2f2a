"""Translate the metadata of a GGUF file into the fields of Hugging Face's config.json.

Knows the keys that llama.cpp's converters write for each supported architecture.
Source: `docs/gguf.md` of ggml; Llama 3.1's rope scaling as in its reference implementation.
"""

import math
from typing import Any

import numpy as np

from headrace.checkpoint.gguf import GGUFFile
from headrace.checkpoint.gguf_families import FAMILY_FIELDS, longrope_scaling
from headrace.checkpoint.gguf_metadata import GGUFMetadata
from headrace.errors import CheckpointError

ARCHITECTURES = {
    "gemma": ("GemmaForCausalLM", "gemma"),
    "gemma2": ("Gemma2ForCausalLM", "gemma2"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "llama": ("LlamaForCausalLM", "llama"),
    "phi3": ("Phi3ForCausalLM", "phi3"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen2moe": ("Qwen2MoeForCausalLM", "qwen2_moe"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "qwen3moe": ("Qwen3MoeForCausalLM", "qwen3_moe"),
}
"""GGUF architecture to HF architecture and model type; files of Mistral's say "llama" too."""

LLAMA3_ROPE = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""The constants of every released model with Llama 3.1's scaling."""


def config_of(file: GGUFFile) -> dict[str, Any]:
    """The configuration, ready for `model_config.normalize`.

    Raises CheckpointError for an unknown architecture, a missing key or one of the wrong type.
    """
    metadata = GGUFMetadata(file)
    if metadata.architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{file.path}: GGUF architecture {metadata.architecture!r} is not supported, "
            f"only {', '.join(ARCHITECTURES)}"
        )
    architecture, model_type = ARCHITECTURES[metadata.architecture]
    heads = metadata.get("attention.head_count", int)
    hidden_size = metadata.get("embedding_length", int)
    head_dim = metadata.get("attention.key_length", int, hidden_size // max(heads, 1))
    fields = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": metadata.get("feed_forward_length", int),
        "num_hidden_layers": metadata.get("block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get("attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "rms_norm_eps": metadata.get("attention.layer_norm_rms_epsilon", float),
        "max_position_embeddings": metadata.get("context_length", int),
        "rope_theta": metadata.get("rope.freq_base", float, 10_000.0),
        "rope_scaling": _rope_scaling(metadata),
        "partial_rotary_factor": _rotary_share(metadata, head_dim),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "vocab_size": _vocab_size(file),
        "bos_token_id": _token_id(file, "bos"),
        "eos_token_id": list(end_token_ids(file)) or None,
        "pad_token_id": _token_id(file, "padding"),
    }
    if (family_fields := FAMILY_FIELDS.get(metadata.architecture)) is not None:
        fields |= family_fields(metadata, fields)
    return fields


def end_token_ids(file: GGUFFile) -> tuple[int, ...]:
    """Ids that end a generation: of the sequence, of the turn, of the message."""
    found = [_token_id(file, key) for key in ("eos", "eot", "eom")]
    return tuple(dict.fromkeys(token_id for token_id in found if token_id is not None))


def _token_id(file: GGUFFile, name: str) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    token_id = file.metadata.get(key)
    if token_id is not None and (not isinstance(token_id, int) or token_id < 0):
        raise CheckpointError(f"{file.path}: {key} must be a token id, found {token_id!r:.80}")
    return token_id


def _vocab_size(file: GGUFFile) -> int:
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError(f"{file.path}: tensor 'token_embd.weight' is missing")
    return file.tensors["token_embd.weight"].shape[0]


def _rotary_share(metadata: GGUFMetadata, head_dim: int) -> float:
    width = metadata.get("rope.dimension_count", int, head_dim)
    if not 0 < width <= head_dim or (metadata.architecture == "llama" and width != head_dim):
        raise CheckpointError(
            f"{metadata.file.path}: rope.dimension_count {width} is not supported "
            f"with head size {head_dim}"
        )
    return width / head_dim


def _rope_scaling(metadata: GGUFMetadata) -> dict[str, Any] | None:
    """Linear and YaRN from their keys; Llama 3.1's out of the tensor that llama.cpp stores."""
    if "rope_freqs.weight" in metadata.file.tensors:
        return _llama3_scaling(metadata)
    if "rope_factors_long.weight" in metadata.file.tensors:
        return longrope_scaling(metadata)
    kind = metadata.get("rope.scaling.type", str, "none")
    if kind == "none":
        return None
    if kind not in {"linear", "yarn"}:
        raise CheckpointError(
            f"{metadata.file.path}: rope scaling {kind!r} is not supported, only linear and yarn"
        )
    scaling: dict[str, Any] = {
        "rope_type": kind,
        "factor": metadata.get("rope.scaling.factor", float),
    }
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = metadata.get(
            "rope.scaling.original_context_length", int
        )
    return scaling


def _llama3_scaling(metadata: GGUFMetadata) -> dict[str, Any]:
    """Recover the scaling's parameters from the stored divisors of the frequencies.

    The largest divisor is the factor; the others must follow from it and the known constants.
    """
    file = metadata.file
    divisors = metadata.floats("rope_freqs.weight")
    scaling = {"rope_type": "llama3", "factor": float(divisors.max()), **LLAMA3_ROPE}
    expected = _llama3_divisors(metadata.get("rope.freq_base", float), len(divisors), scaling)
    if not np.allclose(divisors, expected, rtol=1e-3):
        raise CheckpointError(
            f"{file.path}: tensor 'rope_freqs.weight' is not Llama 3.1's rope scaling"
        )
    return scaling


def _llama3_divisors(
    theta: float, count: int, scaling: dict[str, Any]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[count] float64: 1 for short wavelengths, the factor for long ones, smooth between."""
    wavelengths = 2 * math.pi * theta ** (np.arange(count) / count)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    ratio = scaling["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((ratio - low) / (high - low), 0.0, 1.0)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)
