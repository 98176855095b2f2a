"""`Operations` with the CPU kernels: results in buffers of fixed size, so that a pass can be
recorded once and replayed for any batch (`runner.recorded`).

A result is valid until the same operation makes another one of the same width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch, SampledTokens
from headrace.attention.native import NativeBackend
from headrace.kernels import (
    Activation,
    HeadNorms,
    Kernels,
    PackedWeight,
    RankMemory,
    Rotary,
    ops,
)
from headrace.kernels.tensors import (
    GROUP_SIZE,
    WeightKind,
)
from headrace.layers.native.buffers import Buffers, Counts
from headrace.layers.native.experts import Mixtures
from headrace.layers.native.unsupported import ACTIVATIONS, GATES
from headrace.layers.operations import (
    AttentionLayout,
    Expert,
    HeadNorm,
    LatentHeads,
    NormParameters,
)
from headrace.layers.rope import RotaryEmbedding
from headrace.layers.routing import Router
from headrace.quantization import LinearWeight
from headrace.quantization.packed import PackedLinear
from headrace.weights import Slice


class NativeOperations:
    """See `layers.operations.Operations`; every call needs to be inside `passes`."""

    def __init__(
        self,
        kernels: Kernels,
        backend: NativeBackend,
        max_positions: int,
        ranks: RankMemory | None = None,
        prompt_dtype: torch.dtype | None = None,
    ) -> None:
        """`ranks`: None where no other ranks have a part of the model. `prompt_dtype`: in which
        weights that read int8 read rows at prompt positions; None: in int8 too."""
        self.kernels = kernels
        self._ranks = ranks
        self._backend = backend
        self._max_positions = max_positions
        self._buffers = Buffers(kernels, prompt_dtype)
        self._mixtures = Mixtures(self._buffers)
        self._sampled: Counts | None = None

    @contextmanager
    def passes(self, counts: Counts, sampled: Counts | None = None) -> Iterator[None]:
        """Operations inside work on `counts` rows, and on `sampled` ones once attention has left
        a batch's sampled tokens only."""
        self._buffers.counts = counts
        self._sampled = sampled
        yield

    @property
    def distinguishes_prompts(self) -> bool:
        """Whether passes have computed prompt positions otherwise than generated ones."""
        return self._buffers.distinguish_prompts or self._mixtures.distinguish_prompts

    @property
    def _counts(self) -> Counts:
        return self._buffers.counts

    def _input_of(self, consumer: LinearWeight, use: str) -> Activation:
        """Where to put what `consumer` reads; to be passed through `_ordered`."""
        assert isinstance(consumer, PackedLinear)
        dtype = consumer.input_dtype if consumer.permutation is None else torch.float32
        return self._buffers.activation(use, consumer.in_features, dtype)

    def _ordered(self, x: Activation, consumer: LinearWeight, use: str) -> Activation:
        """The features in the order in which `consumer` was quantized."""
        assert isinstance(consumer, PackedLinear)
        if consumer.permutation is None:
            return x
        assert isinstance(x, Tensor)
        out = self._buffers.activation(
            f"{use}, ordered", consumer.packed_in_features, consumer.input_dtype
        )
        self.kernels.run(ops.Permute(x, consumer.permutation.index, out, rows=self._counts.tokens))
        return out

    def embedding(
        self,
        ids: Tensor,
        table: LinearWeight,
        scale: float = 1.0,
        residual: Tensor | None = None,
        vocabulary: Slice | None = None,
    ) -> Tensor:
        assert isinstance(table, PackedLinear)
        share = vocabulary or Slice.whole(table.out_features)
        out = self._buffers.floats("embedding", table.in_features) if residual is None else residual
        self.kernels.run(
            ops.Embedding(
                ids,
                table.packed,
                out,
                scale=scale,
                first_id=share.start,
                vocab_size=share.total,
                accumulate=residual is not None,
                rows=self._counts.tokens,
            )
        )
        return out

    def norm(self, x: Tensor, norm: NormParameters, consumer: LinearWeight | None) -> Activation:
        if consumer is None:
            floats = self._buffers.floats("norm", x.shape[1])
            self._norm(x, norm, floats)
            return floats
        out = self._input_of(consumer, "norm")
        self._norm(x, norm, out)
        return self._ordered(out, consumer, "norm")

    def residual_norm(self, x: Tensor, norm: NormParameters, residual: Tensor | None) -> Tensor:
        out = self._buffers.floats("stream", x.shape[1]) if residual is None else residual
        self._norm(x, norm, out, accumulate=residual is not None)
        return out

    def _normalize_jointly(self, qkv: Tensor, norm: HeadNorm, layout: AttentionLayout) -> None:
        query, key = (n * layout.head_size for n in (layout.num_heads, layout.num_kv_heads))
        queries, keys, _ = qkv.split([query, key, key], dim=1)
        self._norm(queries, norm.query, queries)
        self._norm(keys, norm.key, keys)

    def _norm(
        self, x: Tensor, norm: NormParameters, out: Activation, *, accumulate: bool = False
    ) -> None:
        self.kernels.run(
            ops.Norm(
                x,
                norm.weight,
                out,
                eps=norm.epsilon,
                kind=norm.kind,
                bias=norm.bias,
                accumulate=accumulate,
                rows=self._counts.tokens,
            )
        )

    def convert(self, x: Tensor, consumer: LinearWeight | None) -> Activation:
        if consumer is None:
            return x
        out = self._input_of(consumer, "norm")
        if isinstance(out, Tensor):
            return self._ordered(x, consumer, "norm")
        self.kernels.run(ops.Quantize(x, out, rows=self._counts.tokens))
        return out

    def linear(
        self,
        x: Activation,
        weight: LinearWeight,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        is_partial: bool = False,
        is_kept: bool = False,
    ) -> Tensor:
        assert isinstance(weight, PackedLinear)
        out = residual
        if out is None:  # the residual stream itself may be a linear's result
            use = "partial" if is_partial else "kept" if is_kept else "linear"
            out = self._buffers.floats(use, weight.out_features)
        weight.multiply(x, out, bias, accumulate=residual is not None, rows=self._counts.tokens)
        return out

    def all_reduce(self, partial: Tensor, residual: Tensor | None = None) -> Tensor:
        assert self._ranks is not None
        out = partial if residual is None else residual
        has_residual, rows = residual is not None, self._counts.tokens
        self.kernels.run(
            ops.AllReduce(self._ranks, partial, out, accumulate=has_residual, rows=rows)
        )
        return out

    def all_gather(self, x: Tensor, columns: Slice) -> Tensor:
        assert self._ranks is not None
        out = self._buffers.floats("gathered", columns.total)
        self.kernels.run(ops.AllGather(self._ranks, x, out, rows=self._counts.tokens))
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
        if bias is None and len(gate_up.parts) == 1:
            self.kernels.run(ops.LinearGate(x, gate_up.packed, out, kind=kind, rows=rows))
        else:
            self.kernels.run(ops.Gate(self.linear(x, gate_up, bias), out, kind=kind, rows=rows))
        return self._ordered(out, consumer, "gated")

    def activated(
        self,
        x: Activation,
        up: LinearWeight,
        bias: Tensor | None,
        activation: str,
        consumer: LinearWeight,
    ) -> Activation:
        out, rows = self._input_of(consumer, "gated"), self._counts.tokens
        kind = ACTIVATIONS[activation]
        self.kernels.run(ops.Activate(self.linear(x, up, bias), out, kind=kind, rows=rows))
        return self._ordered(out, consumer, "gated")

    def soft_cap(self, x: Tensor, cap: float) -> Tensor:
        self.kernels.run(ops.SoftCap(x, cap=cap, rows=self._counts.tokens))
        return x

    def experts(
        self, x: Activation, router: Router, experts: Sequence[Expert], residual: Tensor | None
    ) -> Tensor:
        assert isinstance(x, Tensor)
        return self._mixtures.run(x, router, experts, residual)

    def angles(self, rotary: RotaryEmbedding, positions: Tensor) -> Rotary:
        """Tables for all positions; the kernel looks each token's up."""
        tables = rotary(torch.arange(self._max_positions, dtype=torch.int32))
        cos, sin = (table.contiguous() for table in tables)
        return Rotary(cos, sin)

    def attend(
        self,
        qkv: Tensor,
        angles: Rotary | None,
        batch: AttentionBatch,
        layout: AttentionLayout,
        consumer: LinearWeight,
    ) -> Activation:
        norm, rule = layout.head_norm, layout.temperature
        if norm is not None and norm.is_joint:
            self._normalize_jointly(qkv, norm, layout)
            norm = None
        self.kernels.run(
            ops.RopeWrite(
                qkv,
                batch.positions,
                batch.slot_mapping,
                self._backend.caches[layout.layer],
                num_heads=layout.num_heads,
                rotary=angles,
                norms=_head_norms(norm) if norm else None,
                clip=layout.clip,
                temperature=(rule.interval, rule.growth) if rule else None,
                rows=self._counts.tokens,
            )
        )
        queries = qkv[:, : layout.num_heads * layout.head_size]
        batch = self._keep_sampled(queries, batch)
        out = self._input_of(consumer, "attended")
        if isinstance(out, Tensor) or layout.head_size % GROUP_SIZE == 0:
            self._attend(qkv, batch, layout, out)
            return self._ordered(out, consumer, "attended")
        attended = self._buffers.floats("attended", layout.num_heads * layout.head_size)
        self._attend(qkv, batch, layout, attended)
        return self._given(attended, consumer)

    def _keep_sampled(self, queries: Tensor, batch: AttentionBatch) -> AttentionBatch:
        """From here on work on the batch's sampled tokens only."""
        if batch.sampled is None:
            return batch
        assert self._sampled is not None
        self._buffers.counts = self._sampled
        self._move_sampled(queries, batch.sampled)
        return replace(batch, query_start=batch.sampled.query_start)

    def _move_sampled(self, x: Tensor, sampled: SampledTokens) -> None:
        self.kernels.run(ops.MoveRows(x, sampled.index, rows=self._counts.tokens))

    def sampled(self, x: Tensor, batch: AttentionBatch) -> Tensor:
        if batch.sampled is not None:
            self._move_sampled(x, batch.sampled)
        return x

    def _attend(
        self, queries: Tensor, batch: AttentionBatch, layout: AttentionLayout, out: Activation
    ) -> None:
        """queries [T, any], the heads' first in each row."""
        self.kernels.run(
            ops.Attention(
                queries,
                self._backend.caches[layout.layer],
                batch.query_start,
                batch.context_lens,
                batch.block_table,
                out,
                num_heads=layout.num_heads,
                options=layout.options,
                rows=self._counts.sequences,
            )
        )

    def _given(self, attended: Tensor, consumer: LinearWeight) -> Activation:
        """In the form in which `consumer` reads it."""
        out = self._input_of(consumer, "attended")
        if isinstance(out, Tensor):
            return self._ordered(attended, consumer, "attended")
        self.kernels.run(ops.Quantize(attended, out, rows=self._counts.tokens))
        return self._ordered(out, consumer, "attended")

    def block_weight(self, weight: Tensor, source: LinearWeight) -> tuple[list[PackedWeight], int]:
        """In float16, unless the source is in float32: its rounding is far finer than what the
        source has lost."""
        assert isinstance(source, PackedLinear)
        kind: WeightKind = "float32" if source.packed.kind == "float32" else "float16"
        packed = []
        for block in weight:
            packed.append(self.kernels.empty_weight(kind, *block.shape))
            self.kernels.pack_floats(packed[-1], 0, block)
        return packed, sum(part.num_bytes for part in packed)

    def attend_latents(
        self,
        query: Tensor,
        latents: Tensor,
        angles: Rotary,
        batch: AttentionBatch,
        layout: AttentionLayout,
        heads: LatentHeads,
        consumer: LinearWeight,
    ) -> Activation:
        size, tokens = layout.value_size, self._counts.tokens
        assert size is not None
        self._norm(latents[:, :size], heads.norm, latents[:, :size])
        absorbed = self._buffers.floats("absorbed", layout.num_heads * layout.head_size)
        self.kernels.run(ops.LinearBlocks(query, heads.keys, absorbed, rows=tokens))
        self.kernels.run(
            ops.RopeWrite(
                absorbed,
                batch.positions,
                batch.slot_mapping,
                self._backend.caches[layout.layer],
                num_heads=layout.num_heads,
                key=latents,
                rotary=replace(angles, first=size, is_interleaved=heads.is_interleaved),
                rows=tokens,
            )
        )
        batch = self._keep_sampled(absorbed, batch)
        tokens = self._counts.tokens
        attended = self._buffers.floats("attended", layout.num_heads * size)
        self._attend(absorbed, batch, layout, attended)
        values = self._buffers.floats("values", sum(weight.out_features for weight in heads.values))
        self.kernels.run(ops.LinearBlocks(attended, heads.values, values, rows=tokens))
        return self._given(values, consumer)


def _head_norms(norm: HeadNorm) -> HeadNorms:
    query, key = norm.query, norm.key
    weights = query.weight.contiguous(), key.weight.contiguous()
    return HeadNorms(*weights, query.epsilon, query.kind)
