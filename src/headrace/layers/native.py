"""`Operations` with the CPU kernels: results in buffers of fixed size, so that a pass can be
recorded once and replayed for any batch (`runner.recorded`).

A result is valid until the same operation makes another one of the same width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch
from headrace.attention.native import NativeBackend
from headrace.errors import StartupError
from headrace.kernels import (
    Activation,
    HeadNorms,
    Kernels,
    PackedWeight,
    RankMemory,
    Rotary,
    Split,
    SplitActivation,
    ops,
)
from headrace.kernels.tensors import (
    GROUP_SIZE,
    ActivationKind,
    ExpertBuffers,
    ExpertWeights,
    GateKind,
    Routing,
    WeightKind,
)
from headrace.layers.activation import CLAMPED_SWIGLU
from headrace.layers.attention import AttentionSpec, HeadNormSpec
from headrace.layers.mlp import MLPSpec
from headrace.layers.moe import MoESpec
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
from headrace.quantization.packed import PackedLinear, pack_floats
from headrace.weights import Slice

ACTIVATIONS: dict[str, ActivationKind] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
GATES: dict[str, GateKind] = {**ACTIVATIONS, CLAMPED_SWIGLU: "clamped_swiglu"}


def unsupported(hidden_size: int, attention: AttentionSpec, mlp: MLPSpec | MoESpec) -> str | None:
    """What of a layer the kernels cannot do; None: nothing."""
    if isinstance(mlp, MoESpec):
        reason = _unsupported_experts(mlp)
        return reason or unsupported(hidden_size, attention, mlp.expert)
    if mlp.activation not in GATES:
        return f"activation {mlp.activation}"
    for name, size in (("hidden", hidden_size), ("intermediate", mlp.intermediate_size)):
        if size % GROUP_SIZE:
            return f"{name} size {size} is no multiple of {GROUP_SIZE}"
    return _unsupported_norm(attention.head_norm, attention.clip) if attention.head_norm else None


def _unsupported_norm(norm: HeadNormSpec, clip: float | None) -> str | None:
    if norm.is_joint:
        return None if clip is None else "a norm over all heads, clamped before"
    return "norms of each query and key head with biases" if norm.norm.has_bias else None


def _unsupported_experts(mixture: MoESpec) -> str | None:
    if mixture.shared is not None and mixture.shared.intermediate_size % GROUP_SIZE:
        size = mixture.shared.intermediate_size
        return f"intermediate size {size} of a shared expert is no multiple of {GROUP_SIZE}"
    return None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows a pass may have, and where their number stands when it runs."""

    capacity: int
    tokens: Tensor
    """[1] int32."""
    sequences: Tensor
    """[1] int32."""
    boundary: Tensor
    """[1] int32: rows from here on stand at prompt positions, those before at generated ones."""


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
        self._prompt_dtype = prompt_dtype
        self._buffers: dict[tuple[str, int, int, torch.dtype], Activation] = {}
        self._mixtures: dict[tuple[object, ...], ExpertBuffers] = {}
        self._counts: Counts

    @contextmanager
    def passes(self, counts: Counts) -> Iterator[None]:
        """Operations inside work on `counts` rows."""
        self._counts = counts
        yield

    @property
    def distinguishes_prompts(self) -> bool:
        """Whether passes have computed prompt positions otherwise than generated ones."""
        activations = [*self._buffers.values(), *(m.inputs for m in self._mixtures.values())]
        return any(isinstance(activation, SplitActivation) for activation in activations)

    @property
    def _split(self) -> Split | None:
        """Of int8 activations."""
        if self._prompt_dtype is None:
            return None
        return Split(self._prompt_dtype, self._counts.boundary)

    def _buffer(self, use: str, features: int, dtype: torch.dtype = torch.float32) -> Activation:
        key = (use, self._counts.capacity, features, dtype)
        if key not in self._buffers:
            split = self._split if dtype == torch.int8 else None
            self._buffers[key] = self.kernels.activation(*key[1:], split)
        return self._buffers[key]

    def _floats(self, use: str, features: int) -> Tensor:
        buffer = self._buffer(use, features)
        assert isinstance(buffer, Tensor)
        return buffer

    def _input_of(self, consumer: LinearWeight, use: str) -> Activation:
        """Where to put what `consumer` reads; to be passed through `_ordered`."""
        assert isinstance(consumer, PackedLinear)
        dtype = consumer.input_dtype if consumer.permutation is None else torch.float32
        return self._buffer(use, consumer.in_features, dtype)

    def _ordered(self, x: Activation, consumer: LinearWeight, use: str) -> Activation:
        """The features in the order in which `consumer` was quantized."""
        assert isinstance(consumer, PackedLinear)
        if consumer.permutation is None:
            return x
        assert isinstance(x, Tensor)
        out = self._buffer(f"{use}, ordered", consumer.packed_in_features, consumer.input_dtype)
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
        out = self._floats("embedding", table.in_features) if residual is None else residual
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
            floats = self._floats("norm", x.shape[1])
            self._norm(x, norm, floats)
            return floats
        out = self._input_of(consumer, "norm")
        self._norm(x, norm, out)
        return self._ordered(out, consumer, "norm")

    def residual_norm(self, x: Tensor, norm: NormParameters, residual: Tensor | None) -> Tensor:
        out = self._floats("stream", x.shape[1]) if residual is None else residual
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
            out = self._floats(use, weight.out_features)
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
        out = self._floats("gathered", columns.total)
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
        out = self._floats("experts", x.shape[1]) if residual is None else residual
        weights, is_exact = expert_weights(experts)
        self.kernels.run(
            ops.Experts(
                x,
                self._route(x, router),
                weights,
                out,
                self._expert_buffers(router.experts_per_token, weights, is_exact=is_exact),
                kind=GATES[experts[0].activation],
                weighs_inputs=router.spec.weighs_inputs,
                accumulate=residual is not None,
                rows=self._counts.tokens,
            )
        )
        return out

    def _route(self, x: Tensor, router: Router) -> Routing:
        shape = (self._counts.capacity, router.experts_per_token)
        routing = Routing(torch.zeros(shape, dtype=torch.int32), torch.zeros(shape))
        self.kernels.run(
            ops.Route(
                self._product(x, router.weight, router.bias),
                routing,
                router.spec,
                choice_bias=router.choice_bias,
                has_shared=router.has_shared,
                shared=None if router.shared_gate is None else self._product(x, router.shared_gate),
                rows=self._counts.tokens,
            )
        )
        return routing

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [T, H] times a small float32 weight that no scheme has packed."""
        packed = pack_floats(self.kernels, [weight], torch.float32, exact=True)
        out = self._floats("router", packed.out_features)
        self.kernels.run(ops.Linear(x, packed.packed, out, bias=bias, rows=self._counts.tokens))
        return out

    def _expert_buffers(
        self, experts_per_token: int, experts: Sequence[ExpertWeights], *, is_exact: bool
    ) -> ExpertBuffers:
        """Layers whose mixtures have the same sizes and read the same dtypes share them."""
        dtype = self.kernels.input_dtype
        shapes = tuple(
            (weight.in_features, dtype(weight))
            for expert in experts
            for weight in (*expert.gate_up, expert.down)
        )
        key = (self._counts.capacity, experts_per_token, shapes, is_exact)
        if key not in self._mixtures:
            self._mixtures[key] = self.kernels.expert_buffers(
                self._counts.capacity,
                experts_per_token,
                experts,
                exact=is_exact,
                split=self._split,
            )
        return self._mixtures[key]

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
        out = self._input_of(consumer, "attended")
        if isinstance(out, Tensor) or layout.head_size % GROUP_SIZE == 0:
            self._attend(qkv, batch, layout, out)
            return self._ordered(out, consumer, "attended")
        attended = self._floats("attended", layout.num_heads * layout.head_size)
        self._attend(qkv, batch, layout, attended)
        return self._given(attended, consumer)

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
        absorbed = self._floats("absorbed", layout.num_heads * layout.head_size)
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
        attended = self._floats("attended", layout.num_heads * size)
        self._attend(absorbed, batch, layout, attended)
        values = self._floats("values", sum(weight.out_features for weight in heads.values))
        self.kernels.run(ops.LinearBlocks(attended, heads.values, values, rows=tokens))
        return self._given(values, consumer)


def _head_norms(norm: HeadNorm) -> HeadNorms:
    query, key = norm.query, norm.key
    weights = query.weight.contiguous(), key.weight.contiguous()
    return HeadNorms(*weights, query.epsilon, query.kind)


def expert_weights(experts: Sequence[Expert]) -> tuple[list[ExpertWeights], bool]:
    """The packed weights, and whether they read float32 only. Raises StartupError where they
    read their inputs in an order of their own."""
    packed, biases = [], []
    for expert in experts:
        assert isinstance(expert.gate_up, PackedLinear) and isinstance(expert.down, PackedLinear)
        packed.append((expert.gate_up, expert.down))
        biases.append((expert.gate_up_bias, expert.down_bias))
    if any(part.permutation is not None for parts in packed for part in parts):
        raise StartupError(
            "experts quantized in another order of their inputs (GPTQ's act-order, or groups that "
            "are no multiple of 32) do not run on the CPU kernels; use --kernels torch"
        )
    weights = [
        ExpertWeights(tuple(gate_up.parts), down.packed, *own)
        for (gate_up, down), own in zip(packed, biases, strict=True)
    ]
    return weights, any(linear.is_exact for linears in packed for linear in linears)
