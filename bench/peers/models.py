"""The models to compare on: how large they are, and a 1B Llama shape with random weights."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.checkpoint.gguf import GGUFFile
from headrace.text.gguf_tokenizer import build_backend

TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
VOCABULARY = 49_152
"""That of the embedded model, whose tokenizer the shape gets."""
SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Size:
    """What a token costs: all weights are read once a step, and multiplied once a row."""

    weight_bytes: int
    parameters: int

    @property
    def operations(self) -> int:
        """Of one row: a multiplication and an addition per parameter."""
        return 2 * self.parameters


def size_of(path: Path) -> Size:
    """Of a GGUF file, or a folder with safetensors in 16 bits."""
    checkpoint = open_checkpoint(path)
    if checkpoint.gguf is None:
        num_bytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        return Size(num_bytes, num_bytes // 2)
    tensors = checkpoint.gguf.tensors.values()
    return Size(sum(tensor.nbytes for tensor in tensors), sum(math.prod(t.shape) for t in tensors))


def shape_size() -> Size:
    """Of the 1B shape in 16 bits."""
    parameters = sum(math.prod(shape) for shape in _tensor_shapes().values())
    return Size(2 * parameters, parameters)


def _tensor_shapes() -> dict[str, tuple[int, ...]]:
    """By GGUF's names, [outputs, inputs]."""
    hidden, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    key = SHAPE["num_key_value_heads"] * SHAPE["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, hidden),
        "output_norm.weight": (hidden,),
    }
    for layer in range(SHAPE["num_hidden_layers"]):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (hidden,),
            f"blk.{layer}.attn_q.weight": (hidden, hidden),
            f"blk.{layer}.attn_k.weight": (key, hidden),
            f"blk.{layer}.attn_v.weight": (key, hidden),
            f"blk.{layer}.attn_output.weight": (hidden, hidden),
            f"blk.{layer}.ffn_norm.weight": (hidden,),
            f"blk.{layer}.ffn_gate.weight": (inner, hidden),
            f"blk.{layer}.ffn_up.weight": (inner, hidden),
            f"blk.{layer}.ffn_down.weight": (hidden, inner),
        }
    return shapes


def write_config(folder: Path) -> None:
    """A folder for `--load-format dummy`: config and tokenizer, no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPE))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    build_backend(_embedded()).save(str(folder / "tokenizer.json"))


def write_gguf(path: Path) -> None:
    """The shape as Q4_0 with random weights, and the embedded model's tokenizer."""
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    _write_metadata(writer)
    rng = np.random.default_rng(0)
    for name, shape in _tensor_shapes().items():
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
        else:
            blocks = _random_blocks(rng, shape)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shutil.move(part, path)


def _random_blocks(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Q4_0: per 32 weights a float16 scale and 16 bytes of codes."""
    blocks = rng.integers(0, 256, (shape[0], shape[1] // 32, 18), dtype=np.uint8)
    blocks[:, :, :2] = np.frombuffer(np.float16(0.003).tobytes(), np.uint8)
    return blocks.reshape(shape[0], -1)


def _write_metadata(writer: gguf.GGUFWriter) -> None:
    writer.add_name("llama-1b-shape")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_rope_dimension_count(SHAPE["head_dim"])
    writer.add_rope_freq_base(SHAPE["rope_theta"])
    writer.add_layer_norm_rms_eps(SHAPE["rms_norm_eps"])
    writer.add_vocab_size(VOCABULARY)
    for key, value in _embedded().metadata.items():
        if key.startswith("tokenizer.ggml."):
            _add(writer, key, value)


def _embedded() -> GGUFFile:
    return GGUFFile(embedded_model())


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))
