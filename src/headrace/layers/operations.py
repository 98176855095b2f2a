"""What the decoder's layers do with tensors, apart from what they mean.

The layers are written once against `Operations`. `TorchOperations` computes at once, on any device;
`layers.native` does the same with the CPU kernels, which fuse more and quantize activations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from headrace.attention.base import AttentionBackend, AttentionBatch, AttentionOptions
from headrace.distributed.ranks import OneRank, Ranks
from headrace.layers.activation import ACTIVATIONS
from headrace.layers.rope import RotaryEmbedding, rotate
from headrace.quantization import LinearWeight
from headrace.weights import Slice

Activation = Any
"""Input of a linear layer, in the form that its weight wants: for torch a Tensor [T, features]."""
Angles = Any
"""Rotary angles in the form that `attend` wants."""


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMS norm of each query and key head (Qwen3); weights [head_size]."""

    query: Tensor
    key: Tensor
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """One layer's attention: where it stands and what a packed query-key-value row holds."""

    layer: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    options: AttentionOptions
    head_norm: HeadNorm | None = None


class Operations(Protocol):
    """T is the number of the batch's tokens. `consumer` is the weight that reads the result."""

    def embedding(self, token_ids: Tensor, table: LinearWeight, vocabulary: Slice) -> Tensor:
        """token_ids [T] to vectors [T, hidden_size], zero for ids outside `vocabulary`, the token
        ids whose vectors the table has."""
        ...

    def norm(self, x: Tensor, weight: Tensor, epsilon: float, consumer: LinearWeight) -> Activation:
        """x [T, H] / rms(x) * weight [H]."""
        ...

    def linear(
        self,
        x: Activation,
        weight: LinearWeight,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """x W^T + bias + residual, [T, out_features]; may be in residual's memory."""
        ...

    def all_reduce(self, partial: Tensor, residual: Tensor | None = None) -> Tensor:
        """The sum of all ranks' partial [T, H], plus residual; may be in the memory of either."""
        ...

    def all_gather(self, x: Tensor, columns: Slice) -> Tensor:
        """x [T, len(columns)] of all ranks side by side, [T, columns.total]."""
        ...

    def gated(
        self,
        x: Activation,
        gate_up: LinearWeight,
        bias: Tensor | None,
        activation: str,
        consumer: LinearWeight,
    ) -> Activation:
        """activation(gate(x)) * up(x), both halves of one weight: [T, out_features / 2]."""
        ...

    def angles(self, rotary: RotaryEmbedding, positions: Tensor) -> Angles:
        """Computed once per pass, for all layers."""
        ...

    def attend(
        self,
        qkv: Tensor,
        angles: Angles,
        batch: AttentionBatch,
        layout: AttentionLayout,
        consumer: LinearWeight,
    ) -> Activation:
        """Packed queries, keys, values [T, (heads + 2 kv heads) * head_size] to the attention's
        result [T, heads * head_size]; keys and values go to the cache."""
        ...


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Zhang and Sennrich 2019, over the last dimension; in float32, given back in x's dtype."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(x.dtype)


class TorchOperations:
    """Plain torch, at once; `consumer` does not matter to it."""

    def __init__(self, backend: AttentionBackend, ranks: Ranks | None = None) -> None:
        self._backend = backend
        self._ranks = ranks or OneRank()

    def embedding(self, token_ids: Tensor, table: LinearWeight, vocabulary: Slice) -> Tensor:
        if vocabulary.is_whole:
            return table.lookup(token_ids)
        index = token_ids - vocabulary.start
        is_here = (index >= 0) & (index < len(vocabulary))
        return table.lookup(index.clamp(0, len(vocabulary) - 1)) * is_here.unsqueeze(1)

    def norm(self, x: Tensor, weight: Tensor, epsilon: float, consumer: LinearWeight) -> Tensor:
        return rms_norm(x, weight, epsilon)

    def linear(
        self,
        x: Tensor,
        weight: LinearWeight,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        return weight.apply(x, bias, residual)

    def all_reduce(self, partial: Tensor, residual: Tensor | None = None) -> Tensor:
        total = self._ranks.all_reduce(partial)
        return total if residual is None else residual.add_(total)

    def all_gather(self, x: Tensor, columns: Slice) -> Tensor:
        return self._ranks.all_gather(x, columns)

    def gated(
        self,
        x: Tensor,
        gate_up: LinearWeight,
        bias: Tensor | None,
        activation: str,
        consumer: LinearWeight,
    ) -> Tensor:
        gate, up = gate_up.apply(x, bias, None).chunk(2, dim=-1)
        function: Callable[[Tensor], Tensor] = ACTIVATIONS[activation]
        return function(gate) * up

    def angles(self, rotary: RotaryEmbedding, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rotary(positions)

    def attend(
        self,
        qkv: Tensor,
        angles: tuple[Tensor, Tensor],
        batch: AttentionBatch,
        layout: AttentionLayout,
        consumer: LinearWeight,
    ) -> Tensor:
        heads, kv_heads = layout.num_heads, layout.num_kv_heads
        states = qkv.view(len(qkv), -1, layout.head_size)
        query, key, value = states.split([heads, kv_heads, kv_heads], dim=1)
        if norm := layout.head_norm:
            query = rms_norm(query, norm.query, norm.epsilon)
            key = rms_norm(key, norm.key, norm.epsilon)
        query, key = rotate(query, *angles), rotate(key, *angles)
        return self._backend.forward(layout.layer, query, key, value, batch, layout.options)
