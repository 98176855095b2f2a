"""`Operations` with the CPU kernels: results in buffers of fixed size, so that a pass can be
recorded once and replayed for any batch (`runner.recorded`).

A result is valid until the same operation makes another one of the same width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch
from headrace.attention.native import NativeBackend
from headrace.kernels import Activation, Kernels, QuantizedActivation, Rotary
from headrace.kernels.tensors import GROUP_SIZE, GateKind
from headrace.layers.operations import AttentionLayout
from headrace.layers.rope import RotaryEmbedding
from headrace.quantization import LinearWeight
from headrace.quantization.packed import PackedLinear

GATES: dict[str, GateKind] = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def unsupported(activation: str, hidden_size: int, intermediate_size: int) -> str | None:
    """What of a gated decoder the kernels cannot do; None: nothing."""
    if activation not in GATES:
        return f"activation {activation}"
    for name, size in (("hidden", hidden_size), ("intermediate", intermediate_size)):
        if size % GROUP_SIZE:
            return f"{name} size {size} is no multiple of {GROUP_SIZE}"
    return None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows a pass may have, and where their number stands when it runs."""

    capacity: int
    tokens: Tensor
    """[1] int32."""
    sequences: Tensor
    """[1] int32."""


class NativeOperations:
    """See `layers.operations.Operations`; every call needs to be inside `passes`."""

    def __init__(self, kernels: Kernels, backend: NativeBackend, max_positions: int) -> None:
        self.kernels = kernels
        self._backend = backend
        self._max_positions = max_positions
        self._buffers: dict[tuple[str, int, int, torch.dtype], Activation] = {}
        self._counts: Counts

    @contextmanager
    def passes(self, counts: Counts) -> Iterator[None]:
        """Operations inside work on `counts` rows."""
        self._counts = counts
        yield

    def _buffer(self, use: str, features: int, dtype: torch.dtype = torch.float32) -> Activation:
        key = (use, self._counts.capacity, features, dtype)
        if key not in self._buffers:
            self._buffers[key] = self.kernels.activation(*key[1:])
        return self._buffers[key]

    def _floats(self, use: str, features: int) -> Tensor:
        buffer = self._buffer(use, features)
        assert isinstance(buffer, Tensor)
        return buffer

    def _input_of(self, consumer: LinearWeight, use: str) -> Activation:
        assert isinstance(consumer, PackedLinear)
        return self._buffer(use, consumer.in_features, consumer.input_dtype)

    def embedding(self, token_ids: Tensor, table: LinearWeight) -> Tensor:
        assert isinstance(table, PackedLinear)
        out = self._floats("embedding", table.in_features)
        self.kernels.embedding(token_ids, table.packed, out, rows=self._counts.tokens)
        return out

    def norm(self, x: Tensor, weight: Tensor, epsilon: float, consumer: LinearWeight) -> Activation:
        out = self._input_of(consumer, "norm")
        self.kernels.norm(x, weight, out, eps=epsilon, rows=self._counts.tokens)
        return out

    def linear(
        self,
        x: Activation,
        weight: LinearWeight,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(weight, PackedLinear)
        out = self._floats("linear", weight.out_features) if residual is None else residual
        self.kernels.linear(
            x,
            weight.packed,
            out,
            bias=bias,
            accumulate=residual is not None,
            rows=self._counts.tokens,
        )
        return out

    def gated(
        self,
        x: Activation,
        gate_up: LinearWeight,
        bias: Tensor | None,
        activation: str,
        consumer: LinearWeight,
    ) -> Activation:
        assert isinstance(gate_up, PackedLinear)
        out, kind, rows = self._input_of(consumer, "gated"), GATES[activation], self._counts.tokens
        if bias is None:
            self.kernels.linear_gate(x, gate_up.packed, out, kind=kind, rows=rows)
        else:
            self.kernels.gate(self.linear(x, gate_up, bias), out, kind=kind, rows=rows)
        return out

    def angles(self, rotary: RotaryEmbedding, positions: Tensor) -> Rotary:
        """Tables for all positions; the kernel looks each token's up."""
        tables = rotary(torch.arange(self._max_positions, dtype=torch.int32))
        return Rotary(*(table.contiguous() for table in tables))

    def attend(
        self,
        qkv: Tensor,
        angles: Rotary,
        batch: AttentionBatch,
        layout: AttentionLayout,
        consumer: LinearWeight,
    ) -> Activation:
        cache, norm, counts = self._backend.caches[layout.layer], layout.head_norm, self._counts
        self.kernels.rope_write(
            qkv,
            batch.positions,
            batch.slot_mapping,
            cache,
            num_heads=layout.num_heads,
            rotary=angles,
            query_norm=norm.query if norm else None,
            key_norm=norm.key if norm else None,
            eps=norm.epsilon if norm else 0.0,
            rows=counts.tokens,
        )
        attended = self._floats("attended", layout.num_heads * layout.head_size)
        self.kernels.attention(
            qkv,
            cache,
            batch.query_start,
            batch.context_lens,
            batch.block_table,
            attended,
            num_heads=layout.num_heads,
            scale=layout.options.scale,
            window=layout.options.window,
            soft_cap=layout.options.soft_cap,
            rows=counts.sequences,
        )
        out = self._input_of(consumer, "attended")
        if isinstance(out, QuantizedActivation):
            self.kernels.quantize(attended, out, rows=counts.tokens)
        return out
