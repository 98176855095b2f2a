"""Weights in a GGUF file, under the Hugging Face names of the model.

Knows how llama.cpp permutes Llama's query and key rows and shifts Gemma's norms; names are
`gguf_names`', the container itself is `checkpoint.gguf`'s.
"""

import torch
from torch import Tensor

from headrace.checkpoint.ggml import GGMLType
from headrace.checkpoint.gguf import GGUFFile, GGUFTensor
from headrace.errors import CheckpointError
from headrace.weights.base import RawTensor
from headrace.weights.dequantize import UNPACK, dequantize
from headrace.weights.gguf_names import stored_names
from headrace.weights.mapped_file import MappedFile

FLOATS = {
    GGMLType.F32: torch.float32, GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16,
}  # fmt: skip
"""Types whose tensors are not in blocks."""
ROW_VECTOR = ".shared_expert_gate.weight"
"""A matrix of one row in Hugging Face's format, and a vector in this one."""
READABLE = (*FLOATS, *UNPACK)


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
        return any(
            stored in self._file.tensors for stored, _ in stored_names(name, self._architecture)
        )

    def get(self, name: str) -> Tensor:
        stored = self._read(name)
        if stored.type in FLOATS:
            values = stored.data.view(FLOATS[stored.type]).view(stored.shape)
        else:
            values = dequantize(stored.type, stored.data).view(stored.shape)
        if name.endswith(ROW_VECTOR):
            return values.view(1, -1)
        # Gemma's norms are differences from 1 in Hugging Face's format, and not in this one.
        is_shifted = self._architecture.startswith("gemma") and name.endswith("norm.weight")
        return values - 1 if is_shifted else values

    def raw(self, name: str) -> RawTensor | None:
        """The tensor's blocks without unpacking them; None if it is not stored in blocks."""
        stored = self._read(name)
        return None if stored.type in FLOATS else stored

    def _read(self, name: str) -> RawTensor:
        """Rows in Hugging Face order."""
        tensor, expert = self._find(name)
        for mapped in self._mapped:
            mapped.release()
        stored = self._mapped[tensor.part].bytes[tensor.offset : tensor.offset + tensor.nbytes]
        shape = tensor.shape
        if expert is not None:
            if len(shape) != 3 or expert >= shape[0]:
                raise CheckpointError(
                    f"{self._file.path}: tensor {tensor.name} of shape {list(shape)} has no "
                    f"expert {expert}"
                )
            stored, shape = stored.view(shape[0], -1)[expert], shape[1:]
        values = shape[-1] if len(shape) > 1 else tensor.type.block_size
        data = stored.view(-1, values // tensor.type.block_size * tensor.type.block_bytes)
        if heads := self._rotary_heads.get(name.split(".")[-2]):
            if len(data) % (2 * heads):
                raise CheckpointError(
                    f"{self._file.path}: tensor {tensor.name} has {len(data)} rows, "
                    f"which are not {heads} heads of even size"
                )
            data = unpermute(data, heads)
        return RawTensor(tensor.type, data, shape)

    def _find(self, name: str) -> tuple[GGUFTensor, int | None]:
        candidates = stored_names(name, self._architecture)
        for stored, expert in candidates:
            if stored in self._file.tensors:
                return self._readable(stored), expert
        wanted = candidates[0][0] if candidates else name
        raise CheckpointError(f"{self._file.path}: no tensor {wanted!r} (for {name})")

    def _readable(self, stored: str) -> GGUFTensor:
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
    return rows.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2)
