"""The plain-torch twins of the compiled kernels: same rounding, any machine, slowly.

Quantized activations are held as the float values that the integers stand for.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels.base import HeadOptions, Kernels
from headrace.kernels.block_formats import decode
from headrace.kernels.codebooks import CODEBOOKS, ROUNDED
from headrace.kernels.ranks import RANK_LINE_BYTES, RankMemory
from headrace.kernels.routing import RoutingRule
from headrace.kernels.routing import choose as choose_experts
from headrace.kernels.sampling.choice import choose
from headrace.kernels.sampling.ranking import leading
from headrace.kernels.sampling.truncation import row_sum
from headrace.kernels.tensors import (
    BLOCK_SIZE,
    CODE_BITS,
    FLOAT_DTYPES,
    GROUP_SIZE,
    Activation,
    ActivationKind,
    AttentionOptions,
    Draws,
    ExpertBuffers,
    ExpertWeights,
    GateKind,
    HeadNorms,
    LayerCache,
    NormKind,
    PackedWeight,
    QuantizedActivation,
    Rotary,
    Routing,
    Rows,
    Scaling,
    SplitActivation,
    UniformActivation,
    WeightKind,
)

HELD: dict[Scaling, tuple[torch.dtype, torch.dtype]] = {
    "symmetric": (torch.float16, torch.float16),
    "minimum": (torch.float16, torch.float16),
    "zero_point": (torch.float16, torch.float32),
    "super_block": (torch.float32, torch.float32),
    "signed_super_block": (torch.float32, torch.float32),
    "nibble_super_block": (torch.float32, torch.float32),
}
"""Dtypes of the scales and minima per group in which what the kernels hold is exact."""
SUPER_BLOCK_PARTS: dict[Scaling, int] = {
    "super_block": 32,
    "signed_super_block": 16,
    "nibble_super_block": 16,
}
"""Inputs that share a scale of their own."""
ACTIVATIONS: dict[ActivationKind, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


def gated(kind: GateKind, gate: Tensor, up: Tensor) -> Tensor:
    """activation(gate) * up; GPT-OSS has a function of both instead."""
    if kind == "clamped_swiglu":
        gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
        return gate * torch.sigmoid(1.702 * gate) * (up + 1)
    return ACTIVATIONS[kind](gate) * up


class TorchProgram:
    """A list of closures."""

    def __init__(self) -> None:
        self.ops: list[Callable[[], None]] = []

    def run(self) -> None:
        for op in self.ops:
            op()


def round_to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole values in -127..127 and scales [..., 1], of the last dimension's vectors."""
    largest = x.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    return (x * inverse).round(), largest / 127.0


def fake_quantize(x: Tensor) -> Tensor:
    """What int8 activations with a scale per 32 features stand for. x [..., features]."""
    quants, scales = round_to_int8(x.unflatten(-1, (-1, GROUP_SIZE)))
    return (quants * scales).flatten(-2)


def values_of(
    weight: PackedWeight, index: Tensor | None = None, codebooks: dict[str, Tensor] = CODEBOOKS
) -> Tensor:
    """The weight's rows (those of `index`) as float32."""
    parts = [part if index is None else part[index] for part in weight.storage]
    if not weight.is_grouped:
        return parts[0].float()
    quants, scales, minima = parts
    values = codebooks[weight.kind][quants.int()] if weight.kind in CODEBOOKS else quants.float()
    grouped = values.unflatten(1, (scales.shape[1], -1))
    return (grouped * scales.float()[..., None] + minima.float()[..., None]).flatten(1)


def product(x: Activation, weight: PackedWeight, count: int) -> Tensor:
    """The first `count` rows of x times the weight."""
    if isinstance(x, SplitActivation):
        split = first_rows(x, count)
        return torch.cat([product(x.first, weight, split), product(x.rest, weight, count - split)])
    values = x.storage if isinstance(x, QuantizedActivation) else x
    return functional.linear(values[:count], rounded_values(weight, x))


def rounded_values(weight: PackedWeight, x: UniformActivation) -> Tensor:
    """The weight's rows as float32, as products with such an activation read them."""
    if not isinstance(x, QuantizedActivation):
        return values_of(weight)
    if x.dtype == torch.bfloat16:
        return values_of(weight).bfloat16().float()
    return values_of(weight, codebooks=ROUNDED)


def first_rows(x: SplitActivation, count: int) -> int:
    """How many of `count` rows are in the first part."""
    return min(int(x.boundary), count)


def rounded(x: Tensor, like: UniformActivation) -> Tensor:
    """x as an activation of that kind holds it."""
    if not isinstance(like, QuantizedActivation):
        return x
    return fake_quantize(x) if like.dtype == torch.int8 else x.bfloat16().float()


def put(x: Tensor, out: Activation) -> None:
    """Store rows of x as the activation `out`, quantized if that is."""
    if isinstance(out, SplitActivation):
        split = first_rows(out, len(x))
        put(x[:split], out.first)
        put(x[split:], out.rest)
    elif isinstance(out, QuantizedActivation):
        out.storage[: x.shape[0]] = rounded(x, out)
    else:
        out[: x.shape[0]] = x


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def norm_heads(x: Tensor, weight: Tensor, norms: HeadNorms) -> Tensor:
    """x [T, heads, D], weight [D] or [heads, D]."""
    if norms.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    return rms_norm(x, weight, norms.epsilon)


def rotate(x: Tensor, rotary: Rotary, positions: Tensor) -> Tensor:
    """x [T, heads, D]."""
    half = rotary.cos.shape[1]
    cos, sin = rotary.cos[positions, None], rotary.sin[positions, None]
    before, middle, behind = x.split(
        [rotary.first, 2 * half, x.shape[-1] - rotary.first - 2 * half], -1
    )
    if rotary.is_interleaved:
        a, b = middle[..., ::2], middle[..., 1::2]
    else:
        a, b = middle.chunk(2, -1)
    return torch.cat([before, a * cos - b * sin, b * cos + a * sin, behind], -1)


def split_heads(
    states: tuple[Tensor, Tensor | None], count: int, cache: LayerCache, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The first `count` queries, keys and values [T, heads, D] of `rope_write`, as views."""
    qkv, key = states
    heads = qkv[:count].unflatten(1, (-1, cache.head_size))
    if key is not None:
        keys = key[:count].unflatten(1, (-1, cache.head_size))
        return heads, keys, keys[..., : cache.value_size]
    kv_heads = cache.num_kv_heads
    query, keys, values = heads.split([num_heads, kv_heads, kv_heads], 1)
    return query, keys, values


def check_range(index: Tensor, size: int, message: str) -> None:
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
        raise ValueError(message)


def exchange(ranks: RankMemory, x: Tensor, widths: list[int] | None = None) -> list[Tensor]:
    """Every rank's x [T, width], by way of the memory as csrc/ranks.h describes it."""
    if not len(x):
        return [x] * ranks.size
    lines = ranks.storage[: RANK_LINE_BYTES * ranks.size].view(torch.int32).numpy()
    arrived = lines[:: RANK_LINE_BYTES // 4]
    mine = int(arrived[ranks.rank]) + 1
    current = ranks.slots[:, mine % 2]
    current[ranks.rank, : x.numel()] = x.flatten()
    arrived[ranks.rank] = mine
    sizes = [len(x) * width for width in widths or [x.shape[1]] * ranks.size]
    if ranks.relay is not None:
        here = ranks.relay.here
        _wait_for(arrived[here.start : here.stop], mine)
        if ranks.relay(mine, max(sizes)) != 0:
            raise ValueError("the ranks of another host cannot be reached")
        arrived[: here.start] = arrived[here.stop :] = mine
    _wait_for(arrived, mine)
    return [slot[:size].view(len(x), -1) for slot, size in zip(current, sizes, strict=True)]


def _wait_for(arrived: npt.NDArray[np.int32], collective: int) -> None:
    while (arrived - collective < 0).any():
        time.sleep(0)


class TorchKernels(Kernels):
    """Ops in torch. See `Kernels` for what each does."""

    name = "torch"
    samples_anywhere = True

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self._program: TorchProgram | None = None

    @contextmanager
    def record(self) -> Iterator[TorchProgram]:
        self._program = program = TorchProgram()
        try:
            yield program
        finally:
            self._program = None

    def set_num_threads(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)

    def _do(self, op: Callable[[], None]) -> None:
        if self._program is not None:
            self._program.ops.append(op)
        else:
            op()

    # Storage

    def _quantized(self, rows: int, features: int, dtype: torch.dtype) -> QuantizedActivation:
        return QuantizedActivation(rows, features, dtype, torch.zeros(rows, features))

    def _empty_weight(
        self, kind: WeightKind, out: int, in_: int, group_size: int, scaling: Scaling
    ) -> PackedWeight:
        if not group_size:
            values = torch.zeros(out, in_, dtype=FLOAT_DTYPES[kind])
            return PackedWeight(out, in_, kind, 0, scaling, (values,))
        quants = torch.zeros(out, in_, dtype=torch.uint8 if kind in CODEBOOKS else torch.int8)
        size = SUPER_BLOCK_PARTS.get(scaling, group_size)
        scales, minima = (torch.zeros(out, in_ // size, dtype=dtype) for dtype in HELD[scaling])
        return PackedWeight(out, in_, kind, group_size, scaling, (quants, scales, minima))

    def _pack_blocks(
        self, weight: PackedWeight, row: int, form: str, blocks: Tensor, first: int
    ) -> None:
        columns = slice(first, first + weight.in_features)
        for part, decoded in zip(weight.storage, decode(form, blocks, columns), strict=True):
            part[row : row + blocks.shape[0]] = decoded

    def _pack_groups(
        self, weight: PackedWeight, row: int, quants: Tensor, scales: Tensor, offsets: Tensor | None
    ) -> None:
        has_middle = weight.kind == "int8" or weight.scaling == "symmetric"
        middle = 2 ** (CODE_BITS[weight.kind] - 1) if has_middle else 0
        last = row + quants.shape[0]
        if weight.kind not in CODEBOOKS:
            quants = (quants.to(torch.int16) - middle).to(torch.int8)
        weight.storage[0][row:last] = quants
        weight.storage[1][row:last] = scales
        if offsets is not None:
            around = weight.scaling == "zero_point"
            minima = (middle - offsets) * scales.half() if around else offsets + middle * scales
            weight.storage[2][row:last] = minima

    def _pack_floats(self, weight: PackedWeight, row: int, values: Tensor) -> None:
        weight.storage[0][row : row + values.shape[0]] = values

    # Ops

    def _embedding(
        self,
        rows: Rows,
        ids: Tensor,
        table: PackedWeight,
        scale: float,
        vocabulary: tuple[int, int],
        out: Tensor,
        accumulate: bool,
    ) -> None:
        first_id, vocab_size = vocabulary

        def op() -> None:
            count = rows.count()
            check_range(ids[:count], vocab_size, "a token id is outside the embedding")
            index = ids[:count].long() - first_id
            is_here = (index >= 0) & (index < table.out_features)
            values = values_of(table, index.clamp(0, table.out_features - 1)) * scale
            result = values * is_here[:, None]
            out[:count] = out[:count] + result if accumulate else result

        self._do(op)

    def _norm(
        self,
        rows: Rows,
        x: Tensor,
        index: Tensor | None,
        kind: NormKind,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        out: Activation,
        accumulate: bool,
    ) -> None:
        def op() -> None:
            count = rows.count()
            if index is not None:
                check_range(index[:count], x.shape[0], "a row index is outside the norm's input")
            values = x[:count] if index is None else x[index[:count].long()]
            if kind == "layer":
                result = functional.layer_norm(values, weight.shape, weight, bias, eps)
            else:
                result = rms_norm(values, weight, eps)
                result = result if bias is None else result + bias
            if accumulate:
                assert isinstance(out, Tensor)
                result = result + out[:count]
            put(result, out)

        self._do(op)

    def _linear(
        self,
        rows: Rows,
        x: Activation,
        weight: PackedWeight,
        bias: Tensor | None,
        out: Tensor,
        accumulate: bool,
    ) -> None:
        def op() -> None:
            count = rows.count()
            result = product(x, weight, count)
            if bias is not None:
                result += bias
            out[:count] = out[:count] + result if accumulate else result

        self._do(op)

    def _linear_blocks(
        self, rows: Rows, x: Tensor, weights: Sequence[PackedWeight], out: Tensor
    ) -> None:
        def op() -> None:
            count, depth = rows.count(), weights[0].in_features
            blocks = x[:count].unflatten(1, (len(weights), -1))
            parts = zip(blocks.unbind(1), weights, strict=True)
            products = [
                torch.cat((functional.linear(block[:, :depth], values_of(w)), block[:, depth:]), 1)
                for block, w in parts
            ]
            out[:count] = torch.cat(products, dim=1)

        self._do(op)

    def _linear_gate(
        self, rows: Rows, x: Activation, weight: PackedWeight, kind: GateKind, out: Activation
    ) -> None:
        def op() -> None:
            gate, up = product(x, weight, rows.count()).chunk(2, -1)
            put(gated(kind, gate, up), out)

        self._do(op)

    def _gate(self, rows: Rows, x: Tensor, kind: GateKind, out: Activation) -> None:
        def op() -> None:
            gate, up = x[: rows.count()].chunk(2, -1)
            put(gated(kind, gate, up), out)

        self._do(op)

    def _activate(self, rows: Rows, x: Tensor, kind: ActivationKind, out: Activation) -> None:
        self._do(lambda: put(ACTIVATIONS[kind](x[: rows.count()]), out))

    def _route(
        self,
        rows: Rows,
        logits: Tensor,
        routing: Routing,
        rule: RoutingRule,
        choice_bias: Tensor | None,
        has_shared: bool,
        shared: Tensor | None,
    ) -> None:
        def op() -> None:
            count, width = rows.count(), rule.experts_per_token
            experts, weights = choose_experts(logits[:count], rule, choice_bias)
            routing.experts[:count, :width] = experts
            routing.weights[:count, :width] = weights
            if has_shared:
                routing.experts[:count, width] = rule.num_experts
                routing.weights[:count, width] = (
                    1 if shared is None else shared[:count, 0].sigmoid()
                )

        self._do(op)

    def _experts(
        self,
        rows: Rows,
        x: Tensor,
        routing: Routing,
        experts: Sequence[ExpertWeights],
        out: Tensor,
        buffers: ExpertBuffers,
        kind: GateKind,
        weighs_inputs: bool,
        accumulate: bool,
    ) -> None:
        def mix(part: slice, like: UniformActivation, inner_like: UniformActivation) -> None:
            total = torch.zeros_like(out[part])
            for number, expert in enumerate(experts):
                index, place = torch.where(routing.experts[part] == number)
                weights, values = routing.weights[part][index, place, None], x[part][index]
                inputs = rounded(values * weights if weighs_inputs else values, like)
                weight = rounded_values(expert.gate_up, like)
                gate, up = functional.linear(inputs, weight, expert.gate_up_bias).chunk(2, -1)
                inner = rounded(gated(kind, gate, up), inner_like)
                weight = rounded_values(expert.down, inner_like)
                result = functional.linear(inner, weight, expert.down_bias)
                total.index_add_(0, index, result if weighs_inputs else result * weights)
            out[part] = out[part] + total if accumulate else total

        def op() -> None:
            count, inputs, inner = rows.count(), buffers.inputs, buffers.inner
            if isinstance(inputs, SplitActivation) and isinstance(inner, SplitActivation):
                split = first_rows(inputs, count)
                mix(slice(split), inputs.first, inner.first)
                mix(slice(split, count), inputs.rest, inner.rest)
            else:
                assert not isinstance(inputs, SplitActivation)
                assert not isinstance(inner, SplitActivation)
                mix(slice(count), inputs, inner)

        self._do(op)

    def _soft_cap(self, rows: Rows, x: Tensor, cap: float) -> None:
        def op() -> None:
            count = rows.count()
            x[:count] = cap * torch.tanh(x[:count] / cap)

        self._do(op)

    def _quantize(self, rows: Rows, x: Tensor, out: Activation) -> None:
        self._do(lambda: put(x[: rows.count()], out))

    def _permute(self, rows: Rows, x: Tensor, index: Tensor, out: Activation) -> None:
        def op() -> None:
            values = x[: rows.count(), index.clamp(min=0).long()]
            put(values.masked_fill(index < 0, 0.0), out)

        self._do(op)

    def _argmax(self, rows: Rows, x: Tensor, out: Tensor) -> None:
        def op() -> None:
            count = rows.count()
            out[:count] = x[:count].argmax(-1)

        self._do(op)

    def _sample(
        self, rows: Rows, logits: Tensor, draws: Draws, token_ids: Tensor, largest: Tensor
    ) -> None:
        def op() -> None:
            count = rows.count()
            token_ids[:count], largest[:count] = choose(logits[:count], draws[:count])

        self._do(op)

    def _top_logprobs(
        self,
        rows: Rows,
        logits: Tensor,
        index: Tensor,
        token_ids: Tensor,
        logprobs: Tensor,
        normalizers: Tensor,
    ) -> None:
        def op() -> None:
            count = rows.count()
            check_range(index[:count], len(logits), "a row index is outside the logits")
            values = logits.index_select(0, index[:count])
            largest = values.amax(1, keepdim=True)
            normalizers[:count] = (largest + row_sum((values - largest).exp()).log())[:, 0]
            if num_leading := token_ids.shape[1]:
                leading_values, token_ids[:count] = leading(values, num_leading)
                logprobs[:count] = leading_values - normalizers[:count, None]

        self._do(op)

    def _rope_write(
        self,
        rows: Rows,
        states: tuple[Tensor, Tensor | None],
        positions: Tensor,
        slot_mapping: Tensor,
        cache: LayerCache,
        num_heads: int,
        options: HeadOptions,
    ) -> None:
        rotary, norms, clip, temperature = options

        def op() -> None:
            count = rows.count()
            slots, at = slot_mapping[:count], positions[:count].long()
            check_range(slots, cache.num_blocks * BLOCK_SIZE, "a slot is outside the cache")
            query, key, value = split_heads(states, count, cache, num_heads)
            if clip is not None:
                for part in (query, key, value):
                    part.clamp_(-clip, clip)
            if norms is not None:
                for part, weight in ((query, norms.query), (key, norms.key)):
                    if weight is not None:
                        part.copy_(norm_heads(part, weight, norms))
            if rotary is not None:
                check_range(at, rotary.cos.shape[0], "a position is outside the rotary table")
                for part in (query, key):
                    part.copy_(rotate(part, rotary, at))
            if temperature is not None:
                steps = ((at + 1).float() / temperature[0]).floor()
                query.mul_((steps.log1p() * temperature[1] + 1).view(-1, 1, 1))
            self._write(cache, slots, key, value)

        self._do(op)

    @staticmethod
    def _write(cache: LayerCache, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Put key [T, kv heads, D] and value at their slots."""
        block, offset = slots // BLOCK_SIZE, slots % BLOCK_SIZE
        if cache.key_scales is not None and cache.value_scales is not None:
            key, key_scales = round_to_int8(key)
            value, value_scales = round_to_int8(value)
            cache.key_scales[block, :, offset] = key_scales[..., 0]
            cache.value_scales[block, :, offset] = value_scales[..., 0]
        keys = cache.keys[:, :, : cache.head_size]
        keys[block, :, :, offset] = key.to(keys.dtype)
        values = cache.values[..., : cache.value_size]
        values[block, :, offset] = value.to(values.dtype)

    @staticmethod
    def _read(cache: LayerCache, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [kv heads, tokens, D] of these blocks, as float32."""
        keys = cache.keys[blocks, :, : cache.head_size].float().transpose(2, 3)
        values = cache.values[blocks][..., : cache.value_size].float()
        if cache.key_scales is not None and cache.value_scales is not None:
            keys = keys * cache.key_scales[blocks][..., None]
            values = values * cache.value_scales[blocks][..., None]
        return keys.transpose(0, 1).flatten(1, 2), values.transpose(0, 1).flatten(1, 2)

    def _attention(
        self,
        rows: Rows,
        qkv: Tensor,
        cache: LayerCache,
        batch: tuple[Tensor, Tensor, Tensor],
        num_heads: int,
        options: AttentionOptions,
        out: Tensor,
    ) -> None:
        query_start, context_lens, block_table = batch

        def op() -> None:
            count = rows.count()
            starts, contexts = query_start.tolist(), context_lens.tolist()
            check_batch(starts[: count + 1], contexts[:count], out.shape[0], block_table.shape[1])
            for s in range(count):
                first, last, context = starts[s], starts[s + 1], contexts[s]
                blocks = block_table[s, : -(-context // BLOCK_SIZE)].long()
                check_range(blocks, cache.num_blocks, "a block id is outside the cache")
                keys, values = self._read(cache, blocks)
                query = qkv[first:last, : num_heads * cache.head_size]
                query = query.unflatten(1, (num_heads, -1)).transpose(0, 1)
                result = attend(query, keys[:, :context], values[:, :context], options)
                out[first:last] = result.transpose(0, 1).flatten(1)

        self._do(op)

    def _all_reduce(
        self, rows: Rows, ranks: RankMemory, x: Tensor, out: Tensor, accumulate: bool
    ) -> None:
        def op() -> None:
            count = rows.count()
            parts = exchange(ranks, x[:count])
            total = sum(parts[1:], start=parts[0])
            out[:count] = out[:count] + total if accumulate else total

        self._do(op)

    def _all_gather(self, rows: Rows, ranks: RankMemory, x: Tensor, out: Tensor) -> None:
        def op() -> None:
            count, columns = rows.count(), out.shape[1]
            widths = [replace(ranks, rank=rank).columns(columns) for rank in range(ranks.size)]
            parts = exchange(ranks, x[:count], [last - first for first, last in widths])
            out[:count] = torch.cat(parts, -1)

        self._do(op)


def check_batch(starts: list[int], contexts: list[int], num_tokens: int, width: int) -> None:
    for first, last, context in zip(starts, starts[1:], contexts, strict=False):
        fits = 0 <= first <= last <= num_tokens and last - first <= context <= width * BLOCK_SIZE
        if not fits:
            raise ValueError(
                "query_start and context_lens do not fit the batch and its block table"
            )


def attend(query: Tensor, keys: Tensor, values: Tensor, options: AttentionOptions) -> Tensor:
    """query [heads, T, D], keys and values [kv heads, context, D or value size], the result too."""
    group = query.shape[0] // keys.shape[0]
    keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    scores = query @ keys.transpose(1, 2) * options.scale
    if options.soft_cap is not None:
        scores = options.soft_cap * torch.tanh(scores / options.soft_cap)
    num_tokens, context = scores.shape[1:]
    others = torch.arange(context)
    positions = others[context - num_tokens :, None]
    distance = positions - others
    if options.alibi_slopes is not None:
        scores = scores - options.alibi_slopes.view(-1, 1, 1) * distance
    hidden = distance < 0
    if options.window is not None:
        hidden = hidden | (distance >= options.window)
    if options.chunk is not None:
        hidden = hidden | (others // options.chunk != positions // options.chunk)
    scores = scores.masked_fill(hidden, -torch.inf)
    if options.sinks is not None:
        sinks = options.sinks.view(-1, 1, 1).expand(-1, num_tokens, 1)
        scores = torch.cat((scores, sinks), dim=-1)
    return scores.softmax(-1)[..., :context] @ values
