"""What the decoder's layers do with tensors, apart from what they mean.

The layers are written once against `Operations`. `TorchOperations` computes at once, on any device;
`layers.native` does the same with the CPU kernels, which fuse more and quantize activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from headrace.attention.base import AttentionBackend, AttentionBatch, AttentionOptions
from headrace.distributed.ranks import OneRank, Ranks
from headrace.layers.activation import ACTIVATIONS, gate
from headrace.layers.rope import RotaryEmbedding, rotate
from headrace.layers.routing import Router, route
from headrace.quantization import LinearWeight
from headrace.weights import Slice

Activation = Any
"""Input of a linear layer, in the form that its weight wants: for torch a Tensor [T, features]."""
Angles = Any
"""Rotary angles in the form that `attend` wants."""
BlockWeight = Any
"""One matrix for each head, in the form that `attend_latents` wants."""


@dataclass(frozen=True, slots=True)
class NormParameters:
    """A norm over the last dimension; weight and bias have that size, or one row per head."""

    kind: Literal["rms", "layer"]
    epsilon: float
    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """Norms of queries and keys, of each head (Qwen3), or joint: over all heads (OLMo 2)."""

    query: NormParameters
    key: NormParameters
    is_joint: bool = False


@dataclass(frozen=True, slots=True)
class Temperature:
    """Queries grow with their position: by log(1 + floor((position + 1) / interval)) * growth
    (Nakanishi 2025)."""

    interval: float
    growth: float

    def __call__(self, positions: Tensor) -> Tensor:
        """positions [T] to factors [T] float32."""
        steps = ((positions.float() + 1) / self.interval).floor()
        return steps.log1p() * self.growth + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """One layer's attention: where it stands and what a packed query-key-value row holds."""

    layer: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    options: AttentionOptions
    value_size: int | None = None
    """See `LayerShape`."""
    head_norm: HeadNorm | None = None
    clip: float | None = None
    """Queries, keys and values are clamped to so much either side of 0."""
    temperature: Temperature | None = None


@dataclass(frozen=True, slots=True)
class LatentHeads:
    """What stands between latents and each head's keys and values."""

    norm: NormParameters
    """Of latents."""
    keys: BlockWeight
    """[heads, latent, plain]: makes queries that meet latents of those that meet keys."""
    values: BlockWeight
    """[heads, value, latent]."""
    is_interleaved: bool
    """Neighbouring elements rotate together."""


@dataclass(frozen=True, slots=True)
class Expert:
    """The parameters of one gated MLP of a mixture."""

    gate_up: LinearWeight
    gate_up_bias: Tensor | None
    activation: str
    down: LinearWeight
    down_bias: Tensor | None


class Operations(Protocol):
    """T is the number of the batch's tokens, and R that of its sampled ones, which is T for all
    operations behind the attention that leaves only these. `consumer` is the weight that reads the
    result; None where it is read as it is."""

    def embedding(
        self,
        ids: Tensor,
        table: LinearWeight,
        scale: float = 1.0,
        residual: Tensor | None = None,
        vocabulary: Slice | None = None,
    ) -> Tensor:
        """Rows ids [T] of the table, times `scale`, [T, hidden_size]; with `residual` added to it,
        in its memory. A table of only the ids in `vocabulary` gives zeros for others."""
        ...

    def norm(self, x: Tensor, norm: NormParameters, consumer: LinearWeight | None) -> Activation:
        """x [T, H], normalised."""
        ...

    def residual_norm(self, x: Tensor, norm: NormParameters, residual: Tensor | None) -> Tensor:
        """x [T, H], normalised, in the residual stream's form; with `residual` added to it, in its
        memory."""
        ...

    def convert(self, x: Tensor, consumer: LinearWeight | None) -> Activation:
        """x [T, H] as it is, for a linear layer that reads the residual stream itself."""
        ...

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
        """x W^T + bias + residual, [T, out_features]; may be in residual's memory.

        `is_partial`: other ranks have the rest of the sum (see `all_reduce`). `is_kept`: the next
        linear layers must leave the result alone; otherwise it may be in their memory.
        """
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

    def activated(
        self,
        x: Activation,
        up: LinearWeight,
        bias: Tensor | None,
        activation: str,
        consumer: LinearWeight,
    ) -> Activation:
        """activation(up(x)), [T, out_features]."""
        ...

    def experts(
        self, x: Activation, router: Router, experts: Sequence[Expert], residual: Tensor | None
    ) -> Tensor:
        """Each row of x [T, H] through the experts that the router chooses for it, weighted and
        summed in the order of their numbers, plus residual, in its memory: [T, H]."""
        ...

    def angles(self, rotary: RotaryEmbedding, positions: Tensor) -> Angles:
        """Computed once per pass, for all layers."""
        ...

    def attend(
        self,
        qkv: Tensor,
        angles: Angles | None,
        batch: AttentionBatch,
        layout: AttentionLayout,
        consumer: LinearWeight,
    ) -> Activation:
        """Packed queries, keys, values [T, (heads + 2 kv heads) * head_size] to the attention's
        result of the batch's sampled tokens [R, heads * head_size]; all keys and values go to the
        cache. Without angles nothing rotates."""
        ...

    def sampled(self, x: Tensor, batch: AttentionBatch) -> Tensor:
        """What the residual stream x [T, H] is after attention, which has left `batch`'s sampled
        tokens only: [R, H], in x's memory or not."""
        ...

    def block_weight(self, weight: Tensor, source: LinearWeight) -> tuple[BlockWeight, int]:
        """Of weight [heads, out, in] float, which came from `source`; and its bytes."""
        ...

    def attend_latents(
        self,
        query: Tensor,
        latents: Tensor,
        angles: Angles,
        batch: AttentionBatch,
        layout: AttentionLayout,
        heads: LatentHeads,
        consumer: LinearWeight,
    ) -> Activation:
        """query [T, heads * (plain + rotated)] and the one key [T, latent + rotated] to the result
        of sampled tokens [R, heads * value]; the key, with its latent normalised, goes to the
        cache."""
        ...

    def soft_cap(self, x: Tensor, cap: float) -> Tensor:
        """cap * tanh(x / cap), in x's memory."""
        ...


def normalize(x: Tensor, norm: NormParameters) -> Tensor:
    """Over the last dimension, in float32; the weight applies in its own dtype."""
    function = functional.rms_norm if norm.kind == "rms" else functional.layer_norm
    normed = function(x.float(), x.shape[-1:], eps=norm.epsilon)
    normed = norm.weight * normed.to(norm.weight.dtype)
    if norm.bias is not None:
        normed = normed + norm.bias
    return normed.to(x.dtype)


def _lookup(ids: Tensor, table: LinearWeight, vocabulary: Slice) -> Tensor:
    index = ids - vocabulary.start
    is_here = (index >= 0) & (index < len(vocabulary))
    return table.lookup(index.clamp(0, len(vocabulary) - 1)) * is_here.unsqueeze(1)


class TorchOperations:
    """Plain torch, at once; `consumer` does not matter to it."""

    def __init__(self, backend: AttentionBackend, ranks: Ranks | None = None) -> None:
        self.backend = backend
        self._ranks = ranks or OneRank()

    def embedding(
        self,
        ids: Tensor,
        table: LinearWeight,
        scale: float = 1.0,
        residual: Tensor | None = None,
        vocabulary: Slice | None = None,
    ) -> Tensor:
        embedded = table.lookup(ids) if vocabulary is None else _lookup(ids, table, vocabulary)
        embedded = embedded if scale == 1 else embedded * scale
        return embedded if residual is None else residual.add_(embedded)

    def norm(self, x: Tensor, norm: NormParameters, consumer: LinearWeight | None) -> Tensor:
        return normalize(x, norm)

    def residual_norm(self, x: Tensor, norm: NormParameters, residual: Tensor | None) -> Tensor:
        normed = normalize(x, norm)
        return normed if residual is None else residual.add_(normed)

    def convert(self, x: Tensor, consumer: LinearWeight | None) -> Tensor:
        return x

    def linear(
        self,
        x: Tensor,
        weight: LinearWeight,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        is_partial: bool = False,
        is_kept: bool = False,
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
        return gate(activation, *gate_up.apply(x, bias, None).chunk(2, dim=-1))

    def activated(
        self,
        x: Tensor,
        up: LinearWeight,
        bias: Tensor | None,
        activation: str,
        consumer: LinearWeight,
    ) -> Tensor:
        return ACTIVATIONS[activation](up.apply(x, bias, None))

    def experts(
        self, x: Tensor, router: Router, experts: Sequence[Expert], residual: Tensor | None
    ) -> Tensor:
        chosen, weights = route(x, router)
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=len(experts)).tolist()
        total = torch.zeros_like(x, dtype=torch.float32)
        for expert, places in zip(experts, order.split(counts), strict=True):
            if len(places) == 0:
                continue
            rows = places // chosen.shape[1]
            own = weights.flatten()[places].unsqueeze(1)
            if router.spec.weighs_inputs:
                total.index_add_(0, rows, self._expert((x[rows] * own).to(x.dtype), expert).float())
            else:
                total.index_add_(0, rows, self._expert(x[rows], expert) * own)
        return total.to(x.dtype) if residual is None else residual.add_(total)

    def _expert(self, x: Tensor, expert: Expert) -> Tensor:
        inner = self.gated(x, expert.gate_up, expert.gate_up_bias, expert.activation, expert.down)
        return self.linear(inner, expert.down, expert.down_bias)

    def angles(self, rotary: RotaryEmbedding, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rotary(positions)

    def attend(
        self,
        qkv: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        batch: AttentionBatch,
        layout: AttentionLayout,
        consumer: LinearWeight,
    ) -> Tensor:
        if layout.clip is not None:
            qkv = qkv.clamp_(-layout.clip, layout.clip)
        heads, kv_heads = layout.num_heads, layout.num_kv_heads
        states = qkv.view(len(qkv), -1, layout.head_size)
        query, key, value = states.split([heads, kv_heads, kv_heads], dim=1)
        if norm := layout.head_norm:
            function = self._normalize_jointly if norm.is_joint else normalize
            query, key = function(query, norm.query), function(key, norm.key)
        if angles is not None:
            query, key = rotate(query, *angles), rotate(key, *angles)
        if layout.temperature is not None:
            factors = layout.temperature(batch.positions).view(-1, 1, 1)
            query = (query * factors).to(query.dtype)
        attended = self.backend.forward(layout.layer, query, key, value, batch, layout.options)
        return batch.of_sampled(attended)

    def sampled(self, x: Tensor, batch: AttentionBatch) -> Tensor:
        return batch.of_sampled(x)

    def block_weight(self, weight: Tensor, source: LinearWeight) -> tuple[Tensor, int]:
        return weight, weight.nbytes

    def attend_latents(
        self,
        query: Tensor,
        latents: Tensor,
        angles: tuple[Tensor, Tensor],
        batch: AttentionBatch,
        layout: AttentionLayout,
        heads: LatentHeads,
        consumer: LinearWeight,
    ) -> Tensor:
        assert layout.value_size is not None

        def turned(x: Tensor) -> Tensor:
            if heads.is_interleaved:
                x = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
            return rotate(x, *angles)

        latent, key = latents.split([layout.value_size, 2 * angles[0].shape[-1]], dim=1)
        value = normalize(latent, heads.norm).unsqueeze(1)
        key = torch.cat((value, turned(key.unsqueeze(1))), dim=-1)
        plain, rotary = query.view(len(query), layout.num_heads, -1).split(
            [heads.keys.shape[2], key.shape[-1] - layout.value_size], dim=-1
        )
        query = torch.cat((torch.einsum("thp,hlp->thl", plain, heads.keys), turned(rotary)), dim=-1)
        attended = self.backend.forward(layout.layer, query, key, value, batch, layout.options)
        attended = batch.of_sampled(attended).unflatten(1, (layout.num_heads, -1))
        return torch.einsum("thl,hvl->thv", attended, heads.values).flatten(1)

    def soft_cap(self, x: Tensor, cap: float) -> Tensor:
        return x.div_(cap).tanh_().mul_(cap)

    def _normalize_jointly(self, states: Tensor, norm: NormParameters) -> Tensor:
        """states [T, heads, head_size], over the heads of all ranks, which have as many each."""
        flat, size = states.flatten(1), self._ranks.shard.size
        if size == 1:
            return normalize(flat, norm).view(states.shape)
        assert norm.kind == "rms"
        wide = flat.float()
        mean = self._ranks.all_reduce(wide.square().mean(-1, keepdim=True)) / size
        normed = (wide * torch.rsqrt(mean + norm.epsilon)).to(norm.weight.dtype)
        return (norm.weight * normed).to(states.dtype).view(states.shape)
