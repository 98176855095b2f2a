"""Weights in a GGUF file, under the Hugging Face names of the model.

Knows how llama.cpp names tensors, permutes Llama's query and key rows and shifts Gemma's norms; the
container itself is `checkpoint.gguf`'s.
"""

import re

import torch
from torch import Tensor

from headrace.checkpoint.ggml import GGMLType
from headrace.checkpoint.gguf import GGUFFile, GGUFTensor
from headrace.errors import CheckpointError
from headrace.weights.base import RawTensor
from headrace.weights.dequantize import UNPACK, dequantize
from headrace.weights.mapped_file import MappedFile

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
OTHER_LAYER_NAMES = {
    "gemma2": GEMMA_NORMS,
    "gemma3": GEMMA_NORMS,
    "phi3": {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
}
"""By architecture: where its names differ from LAYER_NAMES, or add to them."""
FLOATS = {
    GGMLType.F32: torch.float32, GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16,
}  # fmt: skip
"""Types whose tensors are not in blocks."""
READABLE = (*FLOATS, *UNPACK)
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def gguf_name(name: str, architecture: str) -> str | None:
    """llama.cpp's name of a Hugging Face parameter; None if it has none."""
    prefix, _, suffix = name.rpartition(".")
    if layer := LAYER.fullmatch(prefix):
        names = LAYER_NAMES | OTHER_LAYER_NAMES.get(architecture, {})
        inner = names.get(layer[2])
        return inner and f"blk.{layer[1]}.{inner}.{suffix}"
    outer = NAMES.get(prefix)
    return outer and f"{outer}.{suffix}"


class GGUFWeights:
    """Tensors of one GGUF model, mapped into memory.

    Asking for a tensor gives back the memory of those before it, until somebody reads them again.
    """

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self._architecture: str = file.metadata["general.architecture"]
        self._mapped = [MappedFile(path) for path in file.paths]
        self._rotary_heads: dict[str, int] = {}
        if self._architecture == "llama":
            heads = file.metadata["llama.attention.head_count"]
            kv_heads = file.metadata.get("llama.attention.head_count_kv", heads)
            self._rotary_heads = {"q_proj": heads, "k_proj": kv_heads}

    def has(self, name: str) -> bool:
        return gguf_name(name, self._architecture) in self._file.tensors

    def get(self, name: str) -> Tensor:
        stored = self._read(name)
        if stored.type in FLOATS:
            values = stored.data.view(FLOATS[stored.type]).view(stored.shape)
        else:
            values = dequantize(stored.type, stored.data).view(stored.shape)
        # Gemma's norms are differences from 1 in Hugging Face's format, and not in this one.
        is_shifted = self._architecture.startswith("gemma") and name.endswith("norm.weight")
        return values - 1 if is_shifted else values

    def raw(self, name: str) -> RawTensor | None:
        """The tensor's blocks without unpacking them; None if it is not stored in blocks."""
        stored = self._read(name)
        return None if stored.type in FLOATS else stored

    def _read(self, name: str) -> RawTensor:
        """Rows in Hugging Face order."""
        tensor = self._find(name)
        for mapped in self._mapped:
            mapped.release()
        stored = self._mapped[tensor.part].bytes[tensor.offset : tensor.offset + tensor.nbytes]
        values = tensor.shape[-1] if len(tensor.shape) > 1 else tensor.type.block_size
        data = stored.view(-1, values // tensor.type.block_size * tensor.type.block_bytes)
        if heads := self._rotary_heads.get(name.split(".")[-2]):
            if len(data) % (2 * heads):
                raise CheckpointError(
                    f"{self._file.path}: tensor {tensor.name} has {len(data)} rows, "
                    f"which are not {heads} heads of even size"
                )
            data = unpermute(data, heads)
        return RawTensor(tensor.type, data, tensor.shape)

    def _find(self, name: str) -> GGUFTensor:
        stored = gguf_name(name, self._architecture)
        if stored is None or stored not in self._file.tensors:
            raise CheckpointError(f"{self._file.path}: no tensor {stored or name!r} (for {name})")
        tensor = self._file.tensors[stored]
        if tensor.type not in READABLE:
            raise CheckpointError(
                f"{self._file.path}: tensor {stored} has type {tensor.type.name}; "
                f"readable are {', '.join(type.name for type in READABLE)}"
            )
        return tensor


def unpermute(rows: Tensor, num_heads: int) -> Tensor:
    """Undo llama.cpp's pairing of rotary rows: (j, half) back to (half, j) within each head.

    rows [num_heads * head_size, ...], of any dtype: quantized blocks lie within a row.
    """
    pairs = rows.unflatten(0, (num_heads, -1, 2))
    return pairs.transpose(1, 2).flatten(0, 2)
