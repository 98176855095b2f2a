"""Small GGUF files for tests, written by the gguf package."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "ab"]


def write_gguf(
    path: Path,
    architecture: str = "llama",
    keys: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray[Any, Any]] | None = None,
    **options: Any,
) -> Path:
    """A model of 2 layers; `keys` are added, or taken away where the value is None.

    `options` are the writer's, for example to split the model over several files.
    """
    values: dict[str, Any] = {
        f"{architecture}.block_count": 2,
        f"{architecture}.context_length": 128,
        f"{architecture}.embedding_length": 64,
        f"{architecture}.feed_forward_length": 96,
        f"{architecture}.attention.head_count": 4,
        f"{architecture}.attention.head_count_kv": 2,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 5000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    } | (keys or {})
    writer = gguf.GGUFWriter(path, architecture, **options)
    for key, value in values.items():
        _add(writer, key, value)
    embedding = np.zeros((len(TOKENS), 64), np.float32)
    for name, tensor in ({"token_embd.weight": embedding} | (tensors or {})).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)
