"""The ops of a decoder on CPU: their contract and the checks, whoever computes them.

Every op works on rows; `rows`, an int32 tensor of one element read when the op runs, says on how
many (None: on all that the buffers hold). A row's result never depends on other rows, on their
number or on the number of threads. All floats are float32 unless a shape line says otherwise.
Activations may be in two parts (`SplitActivation`), each with an arithmetic of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from headrace.kernels.memory import zeroed
from headrace.kernels.ranks import RankMemory
from headrace.kernels.routing import RoutingRule
from headrace.kernels.tensors import (
    ACTIVATION_KINDS,
    BLOCK_FORMATS,
    BLOCK_SIZE,
    CACHE_DTYPES,
    CODE_BITS,
    DRAW,
    FLOAT_DTYPES,
    GATE_KINDS,
    GROUP_SIZE,
    LAYOUTS,
    NORM_KINDS,
    WEIGHT_KINDS,
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
    Split,
    SplitActivation,
    UniformActivation,
    WeightKind,
    are_zero_points,
    check,
    check_activation,
    check_choice,
    check_equal,
    check_half_range,
    check_multiple,
    check_rows,
    check_strided,
)

MAX_HEAD_SIZE = 576
HEAD_MULTIPLE = 16
"""Features of one vector: caches pad heads to whole ones."""
SLOT_MULTIPLE = 16
"""Slots of one expert's rows of one part: whole blocks of quantized activations."""


def padded_head_size(size: int) -> int:
    """Elements that a cache has for a head's `size`."""
    return -(-size // HEAD_MULTIPLE) * HEAD_MULTIPLE


HeadOptions = tuple[Rotary | None, HeadNorms | None, float | None, tuple[float, float] | None]
"""rotary, norms, clip and temperature of `Kernels.rope_write`."""


class Program(Protocol):
    """Ops recorded over fixed buffers, to be run again with whatever these then hold."""

    def run(self) -> None:
        """Run all ops in order. Raises ValueError for data outside the buffers' limits."""
        ...


class Kernels(ABC):
    """One implementation of the ops. All raise ValueError for shapes that do not fit."""

    name: str
    reason: str
    """For people: what is in use, and why."""
    has_bfloat16_tiles = False
    """Whether there are products of bfloat16 activations: see `input_dtypes`."""
    samples_anywhere = False
    """Whether the ops on logits take those of other devices too."""

    # Programs and threads

    @contextmanager
    @abstractmethod
    def record(self) -> Iterator[Program]:
        """Inside the block ops are added to the program instead of being run."""

    @abstractmethod
    def set_num_threads(self, num_threads: int) -> None:
        """Threads that share each op, the calling one included; results do not depend on it."""

    # Storage

    def input_dtypes(self, weight: PackedWeight) -> tuple[torch.dtype, ...]:
        """The dtypes in which a linear reads its input, the narrowest first; all read float32.

        For bfloat16 inputs a weight of integers or codes is rounded to bfloat16 too.
        """
        dtypes = [torch.int8] if weight.is_integer else []
        is_tiled = weight.kind == "bfloat16" and weight.in_features % GROUP_SIZE == 0
        if self.has_bfloat16_tiles and (weight.is_integer or is_tiled):
            dtypes.append(torch.bfloat16)
        return (*dtypes, torch.float32)

    def input_dtype(self, weight: PackedWeight) -> torch.dtype:
        """The narrowest of `input_dtypes`."""
        return self.input_dtypes(weight)[0]

    def activation(
        self,
        rows: int,
        features: int,
        dtype: torch.dtype = torch.int8,
        split: Split | None = None,
    ) -> Activation:
        """A buffer for a linear's input, in a dtype that `input_dtypes` gives; with `split`
        the rows behind its boundary are in its dtype."""
        first = self._uniform_activation(rows, features, dtype)
        if split is None:
            return first
        rest = self._uniform_activation(rows, features, split.dtype)
        return SplitActivation(first, rest, split.boundary)

    def _uniform_activation(
        self, rows: int, features: int, dtype: torch.dtype
    ) -> UniformActivation:
        if dtype == torch.float32:
            return torch.zeros(rows, features)
        check_multiple("features", features, GROUP_SIZE)
        return self._quantized(rows, features, dtype)

    def empty_cache(
        self,
        num_blocks: int,
        num_kv_heads: int,
        head_size: int,
        dtype: torch.dtype,
        value_size: int | None = None,
    ) -> LayerCache:
        """A zeroed cache of float32, float16, bfloat16 or int8 (scaled per token and head).

        value_size: values are the first so many elements of their keys.
        """
        check_choice(dtype, "cache dtype", CACHE_DTYPES)
        sizes = head_size, head_size if value_size is None else value_size
        self._check_head_sizes(*sizes)
        cpu, heads = torch.device("cpu"), (num_blocks, num_kv_heads)
        key_width, value_width = map(padded_head_size, sizes)
        keys = zeroed((*heads, key_width, BLOCK_SIZE), dtype, cpu)
        values = zeroed((*heads, BLOCK_SIZE, value_width), dtype, cpu)
        if dtype != torch.int8:
            return LayerCache(keys, values, *sizes)
        scales = zeroed((2, *heads, BLOCK_SIZE), torch.float32, cpu)
        return LayerCache(keys, values, *sizes, scales[0], scales[1])

    def expert_buffers(
        self,
        rows: int,
        experts_per_row: int,
        experts: Sequence[ExpertWeights],
        *,
        exact: bool = False,
        split: Split | None = None,
    ) -> ExpertBuffers:
        """For `experts` over up to so many rows; inputs are in the dtype that all weights read, or
        in float32 where they differ, and with `exact`. Only int8 inputs are split."""
        places = rows * experts_per_row
        hidden = experts[0].gate_up.in_features
        inner = max(expert.down.in_features for expert in experts)

        def dtype(weights: list[PackedWeight]) -> torch.dtype:
            dtypes = {self.input_dtype(weight) for weight in weights}
            return torch.float32 if exact or len(dtypes) > 1 else dtypes.pop()

        inputs = dtype([expert.gate_up for expert in experts])
        inner_inputs = dtype([expert.down for expert in experts])
        if (inputs, inner_inputs) != (torch.int8, torch.int8):
            split = None
        shares = len(experts) * (1 if split is None else 2)
        slots = places + min(shares, places) * (SLOT_MULTIPLE - 1)
        slots = -(-slots // SLOT_MULTIPLE) * SLOT_MULTIPLE
        return ExpertBuffers(
            torch.zeros(2 * shares + 1 + places + slots, dtype=torch.int32),
            self.activation(slots, hidden, inputs, split),
            self.activation(slots, inner, inner_inputs, split),
            torch.zeros(slots, hidden),
        )

    def empty_weight(
        self,
        kind: WeightKind,
        out_features: int,
        in_features: int,
        *,
        group_size: int = GROUP_SIZE,
        scaling: Scaling = "symmetric",
    ) -> PackedWeight:
        """Room for a weight, to be filled with the pack methods; unfilled rows are zero.

        Kinds in groups need in_features and group_size in multiples of 32, and one of the scalings
        that `LAYOUTS` has for them.
        """
        check_choice(kind, "weight kind", WEIGHT_KINDS)
        check_multiple("out_features", out_features, 1)
        check_multiple("in_features", in_features, 1)
        if kind in FLOAT_DTYPES:
            return self._empty_weight(kind, out_features, in_features, 0, "symmetric")
        check_multiple("group_size", group_size, GROUP_SIZE)
        check_multiple("in_features", in_features, group_size)
        check_choice(scaling, f"scaling of {kind}", LAYOUTS[kind])
        return self._empty_weight(kind, out_features, in_features, group_size, scaling)

    def pack_blocks(
        self, weight: PackedWeight, row: int, block_format: str, blocks: Tensor, *, first: int = 0
    ) -> None:
        """Fill rows from `row` with GGUF blocks [rows, bytes] uint8 (rows may be strided).

        The weight's inputs begin within the first block, at `first`, a multiple of 32. It has the
        kind and scaling of the format; a group is 32 inputs, or a part of a super-block.
        """
        check_choice(block_format, "block format", tuple(BLOCK_FORMATS))
        form = BLOCK_FORMATS[block_format]
        self._check_block_format(weight, block_format, first)
        check_rows(blocks, "blocks")
        num_blocks = -(-(first + weight.in_features) // form.block_weights)
        row_bytes = num_blocks * form.block_bytes
        check_equal("blocks: bytes per row", blocks.shape[1] * blocks.element_size(), row_bytes)
        self._check_row_range(weight, row, blocks.shape[0])
        self._pack_blocks(weight, row, block_format, blocks, first)

    def pack_groups(
        self,
        weight: PackedWeight,
        row: int,
        quants: Tensor,
        scales: Tensor,
        offsets: Tensor | None = None,
    ) -> None:
        """Fill rows from `row` with quants * scales + minima, or (quants - zero points) * scales.

        quants [rows, in] uint8; scales and offsets, which are minima or zero points as the weight's
        scaling says, [rows, in / group_size]. Where it is symmetric quants stand for -8..7 (4 bits)
        or -128..127 and the like, or are codes. Kept are float16 scales and the float16 value of
        quant 0, of 8 bits 128; zero points must be in sixteenths, of 8 bits whole.
        """
        if not weight.is_grouped:
            raise ValueError("groups need a weight of a kind in groups")
        check(quants, "quants", torch.uint8, None, weight.in_features)
        num_rows, num_groups = quants.shape[0], weight.in_features // weight.group_size
        bits = CODE_BITS[weight.kind]
        if int(quants.max()) >= 2**bits:
            raise ValueError(f"quants: above {2**bits - 1} in a weight of {bits} bits")
        check(scales, "scales", torch.float32, num_rows, num_groups)
        check_half_range("scales", scales)
        if "super_block" in weight.scaling:
            raise ValueError("a weight in super-blocks takes blocks only")
        if (offsets is not None) != (weight.scaling != "symmetric"):
            raise ValueError("offsets: needed if, and only if, the weight is not symmetric")
        if offsets is not None:
            check(offsets, "offsets", torch.float32, num_rows, num_groups)
            if weight.scaling == "minimum":
                check_half_range("minima", offsets)
            elif not are_zero_points(offsets, weight.kind):
                raise ValueError("zero points: not in steps that 8 bits hold")
        self._check_row_range(weight, row, num_rows)
        self._pack_groups(weight, row, quants, scales, offsets)

    def pack_floats(self, weight: PackedWeight, row: int, values: Tensor) -> None:
        """Fill rows from `row` of a float weight with values [rows, in] of any float dtype."""
        if weight.is_grouped:
            raise ValueError("floats need a weight of a float kind")
        values = values.to(FLOAT_DTYPES[weight.kind])
        check_rows(values, "values")
        check_equal("values: row length", values.shape[1], weight.in_features)
        self._check_row_range(weight, row, values.shape[0])
        self._pack_floats(weight, row, values)

    # Ops

    def embedding(
        self,
        ids: Tensor,
        table: PackedWeight,
        out: Tensor,
        *,
        scale: float = 1.0,
        first_id: int = 0,
        vocab_size: int | None = None,
        accumulate: bool = False,
        rows: Tensor | None = None,
    ) -> None:
        """out[r] = table[ids[r] - first_id] * scale, or added to out. ids [T] int32, out [T, H].

        The table may hold a part of the vocabulary, from `first_id` on; the others' rows are zero.
        """
        check(out, "out", torch.float32, None, table.in_features)
        check(ids, "ids", torch.int32, out.shape[0])
        vocabulary = (first_id, vocab_size or table.out_features)
        if first_id < 0 or first_id + table.out_features > vocabulary[1]:
            raise ValueError("table: reaches beyond the vocabulary")
        rows_ = self._rows(rows, out.shape[0])
        self._embedding(rows_, ids, table, scale, vocabulary, out, accumulate)

    def norm(
        self,
        x: Tensor,
        weight: Tensor,
        out: Activation,
        *,
        eps: float,
        kind: NormKind = "rms",
        bias: Tensor | None = None,
        index: Tensor | None = None,
        accumulate: bool = False,
        rows: Tensor | None = None,
    ) -> None:
        """out[r] = norm(x[index[r]]) * weight + bias (index None: x[r]), or added to out.

        x [X, H], weight and bias [H], index [R] int32, out [R, H] quantized or float32. Rows of x
        and of a float32 out may be strided; out may be x. Only float32 accumulates.
        """
        check_choice(kind, "norm kind", NORM_KINDS)
        num_rows, features = check_activation(out, "out", is_strided=True)
        if accumulate and not isinstance(out, Tensor):
            raise ValueError("out: quantized activations cannot accumulate")
        check_strided(x, "x", num_rows if index is None else None, features)
        check(weight, "weight", torch.float32, features)
        if bias is not None:
            check(bias, "bias", torch.float32, features)
        if index is not None:
            check(index, "index", torch.int32, num_rows)
        rows_ = self._rows(rows, num_rows)
        self._norm(rows_, x, index, kind, weight, bias, eps, out, accumulate)

    def linear(
        self,
        x: Activation,
        weight: PackedWeight,
        out: Tensor,
        *,
        bias: Tensor | None = None,
        accumulate: bool = False,
        rows: Tensor | None = None,
    ) -> None:
        """out = x @ weight.T + bias, or with `accumulate` added to out (the residual stream).

        x [T, K] in one of the weight's `input_dtypes`; out [T, N], maybe a part of wider rows;
        bias [N].
        """
        num_rows = self._check_product(x, weight)
        check_strided(out, "out", num_rows, weight.out_features)
        if bias is not None:
            check(bias, "bias", torch.float32, weight.out_features)
        self._linear(self._rows(rows, num_rows), x, weight, bias, out, accumulate)

    def linear_blocks(
        self,
        x: Tensor,
        weights: Sequence[PackedWeight],
        out: Tensor,
        *,
        rows: Tensor | None = None,
    ) -> None:
        """The first K columns of each block of x times that block's weight, then its other columns.

        x [T, B * X] and out [T, B * (N + X - K)] in as many blocks as there are weights [N, K].
        """
        count, shape = len(weights), (weights[0].out_features, weights[0].in_features)
        check(x, "x", torch.float32, None, None)
        check_multiple("x: columns", x.shape[1], count)
        if x.shape[1] // count < shape[1]:
            raise ValueError("x: blocks are narrower than the weights' inputs")
        for weight in weights:
            check_equal("weights: outputs", weight.out_features, shape[0])
            check_equal("weights: inputs", weight.in_features, shape[1])
        width = shape[0] * count + x.shape[1] - shape[1] * count
        check(out, "out", torch.float32, len(x), width)
        self._linear_blocks(self._rows(rows, len(x)), x, weights, out)

    def linear_gate(
        self,
        x: Activation,
        weight: PackedWeight,
        out: Activation,
        *,
        kind: GateKind,
        rows: Tensor | None = None,
    ) -> None:
        """out = act(x @ gate.T) * (x @ up.T), gate and up being the halves of the weight's rows
        (clamped_swiglu is a function of both: `kernels.twins.gated`).

        x [T, K], weight [2F, K], out [T, F], F a multiple of 32.
        """
        num_rows = self._check_product(x, weight)
        self._check_gate(kind, out, num_rows, weight.out_features)
        self._linear_gate(self._rows(rows, num_rows), x, weight, kind, out)

    def gate(
        self, x: Tensor, out: Activation, *, kind: GateKind, rows: Tensor | None = None
    ) -> None:
        """out[r][f] = act(x[r][f]) * x[r][F + f]. x [T, 2F], out [T, F], F a multiple of 32."""
        check(x, "x", torch.float32, None, None)
        self._check_gate(kind, out, x.shape[0], x.shape[1])
        self._gate(self._rows(rows, x.shape[0]), x, kind, out)

    def activate(
        self, x: Tensor, out: Activation, *, kind: ActivationKind, rows: Tensor | None = None
    ) -> None:
        """out = act(x). x and out [T, F], F a multiple of 32."""
        check_choice(kind, "activation kind", ACTIVATION_KINDS)
        num_rows, features = check_activation(out, "out")
        check(x, "x", torch.float32, num_rows, features)
        check_multiple("out: features", features, GROUP_SIZE)
        self._activate(self._rows(rows, num_rows), x, kind, out)

    def route(
        self,
        logits: Tensor,
        routing: Routing,
        rule: RoutingRule,
        *,
        choice_bias: Tensor | None = None,
        has_shared: bool = False,
        shared: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> None:
        """routing = what `kernels.routing.choose` gives of logits [T, num_experts].

        With `has_shared` one more expert comes last, weighing 1 or sigmoid(shared[r]); shared
        [T, 1].
        """
        check(logits, "logits", torch.float32, None, rule.num_experts)
        if not 1 <= rule.experts_per_token <= rule.num_experts:
            raise ValueError("experts_per_token: outside 1 to num_experts")
        check_multiple("num_experts", rule.num_experts, rule.num_groups)
        if not (
            1 <= rule.groups_per_token <= rule.num_groups
            and 1 <= rule.experts_per_group <= rule.num_experts // rule.num_groups
        ):
            raise ValueError("groups_per_token or experts_per_group: more than there are")
        shape = (len(logits), rule.experts_per_token + has_shared)
        check(routing.experts, "experts", torch.int32, *shape)
        check(routing.weights, "weights", torch.float32, *shape)
        if choice_bias is not None:
            check(choice_bias, "choice_bias", torch.float32, rule.num_experts)
        if shared is not None:
            check(shared, "shared", torch.float32, len(logits), 1)
        rows_ = self._rows(rows, len(logits))
        self._route(rows_, logits, routing, rule, choice_bias, has_shared, shared)

    def experts(
        self,
        x: Tensor,
        routing: Routing,
        experts: Sequence[ExpertWeights],
        out: Tensor,
        buffers: ExpertBuffers,
        *,
        kind: GateKind,
        weighs_inputs: bool = False,
        accumulate: bool = False,
        rows: Tensor | None = None,
    ) -> None:
        """out[r] = the results of x[r]'s experts, weighted, summed in the order of their numbers,
        or with `accumulate` added to out.

        x and out [T, H]. `buffers` are those of `expert_buffers` for T rows. `weighs_inputs`: the
        weights multiply what the experts read.
        """
        check_choice(kind, "gate kind", GATE_KINDS)
        num_rows, hidden = out.shape
        check(out, "out", torch.float32, num_rows, None)
        check(x, "x", torch.float32, num_rows, hidden)
        check(routing.experts, "experts", torch.int32, num_rows, None)
        slots, inner = check_activation(buffers.inner, "inner")
        for expert in experts:
            check_equal("gate and up: inputs", expert.gate_up.in_features, hidden)
            check_equal("down: outputs", expert.down.out_features, hidden)
            check_equal("gate and up", expert.gate_up.out_features, 2 * expert.down.in_features)
            check_multiple("inner features", expert.down.in_features, GROUP_SIZE)
            for bias, weight in (
                (expert.gate_up_bias, expert.gate_up),
                (expert.down_bias, expert.down),
            ):
                if bias is not None:
                    check(bias, "bias of an expert", torch.float32, weight.out_features)
            self._check_product(buffers.inputs, expert.gate_up)
            self._check_input(buffers.inner, expert.down)
            if expert.down.in_features > inner:
                raise ValueError("buffers: made for narrower experts")
        places = num_rows * routing.experts.shape[1]
        check(buffers.outputs, "outputs", torch.float32, slots, hidden)
        is_split = isinstance(buffers.inputs, SplitActivation)
        check_equal("inner: parts", isinstance(buffers.inner, SplitActivation), is_split)
        num_shares = len(experts) * (2 if is_split else 1)
        check(buffers.plan, "plan", torch.int32, 2 * num_shares + 1 + places + slots)
        rows_ = self._rows(rows, num_rows)
        self._experts(rows_, x, routing, experts, out, buffers, kind, weighs_inputs, accumulate)

    def soft_cap(self, x: Tensor, *, cap: float, rows: Tensor | None = None) -> None:
        """x = cap * tanh(x / cap), in place. x [R, F]."""
        check(x, "x", torch.float32, None, None)
        if cap <= 0:
            raise ValueError("cap: must be positive")
        self._soft_cap(self._rows(rows, x.shape[0]), x, cap)

    def quantize(self, x: Tensor, out: Activation, *, rows: Tensor | None = None) -> None:
        """out = x, rounded as `out` holds it. x and out [T, F], F a multiple of 32."""
        num_rows, features = check_activation(out, "out")
        check_multiple("out: features", features, GROUP_SIZE)
        check(x, "x", torch.float32, num_rows, features)
        self._quantize(self._rows(rows, num_rows), x, out)

    def permute(
        self, x: Tensor, index: Tensor, out: Activation, *, rows: Tensor | None = None
    ) -> None:
        """out[r][k] = x[r][index[k]], 0 where the index is -1.

        x [T, F], index [K] int32, out [T, K], K a multiple of 32.
        """
        num_rows, features = check_activation(out, "out")
        check_multiple("out: features", features, GROUP_SIZE)
        check(x, "x", torch.float32, num_rows, None)
        check(index, "index", torch.int32, features)
        if not -1 <= int(index.min()) <= int(index.max()) < x.shape[1]:
            raise ValueError(f"index: outside -1..{x.shape[1] - 1}")
        self._permute(self._rows(rows, num_rows), x, index, out)

    def argmax(self, x: Tensor, out: Tensor, *, rows: Tensor | None = None) -> None:
        """out[r] = the first index of the largest of x[r]. x [R, V], out [R] int32."""
        check(x, "x", torch.float32, None, None)
        check_multiple("x: columns", x.shape[1], 1)
        check(out, "out", torch.int32, x.shape[0])
        self._argmax(self._rows(rows, x.shape[0]), x, out)

    def sample(
        self,
        logits: Tensor,
        draws: Draws,
        token_ids: Tensor,
        largest: Tensor,
        *,
        rows: Tensor | None = None,
    ) -> None:
        """token_ids[r] = a token of logits[r], drawn as draws[r] says; largest[r] = max(logits[r]).

        logits [R, V], draws [R] of DRAW, token_ids [R] int64, largest [R]. Where largest is not
        finite there was nothing to choose from; it is NaN if any of the row's logits is.
        A draw takes the largest exp(score) / e, where e is an exponential random number that the
        row's seed, its position and the candidate determine. All implementations use the same
        numbers, so they choose alike but for quotients that differ by rounding only.
        """
        anywhere = self.samples_anywhere
        check(logits, "logits", torch.float32, None, None, any_device=anywhere)
        num_rows = logits.shape[0]
        check_multiple("logits: columns", logits.shape[1], 1)
        if draws.dtype != DRAW or draws.shape != (num_rows,) or not draws.flags.c_contiguous:
            raise ValueError(f"draws: expected {num_rows} contiguous records of DRAW")
        check(token_ids, "token_ids", torch.int64, num_rows, any_device=anywhere)
        check(largest, "largest", torch.float32, num_rows, any_device=anywhere)
        self._sample(self._rows(rows, num_rows), logits, draws, token_ids, largest)

    def top_logprobs(
        self,
        logits: Tensor,
        index: Tensor,
        token_ids: Tensor,
        logprobs: Tensor,
        normalizers: Tensor,
        *,
        rows: Tensor | None = None,
    ) -> None:
        """The K likeliest tokens of each logits[index[l]], best first, lower ids before equals.

        logits [R, V]; index [L] int64; token_ids [L, K] int64 and logprobs [L, K], K <= V;
        normalizers [L]: a token's log-probability is its logit less its row's normalizer.
        """
        anywhere = self.samples_anywhere
        check(logits, "logits", torch.float32, None, None, any_device=anywhere)
        check(index, "index", torch.int64, None, any_device=anywhere)
        check(token_ids, "token_ids", torch.int64, len(index), None, any_device=anywhere)
        check(logprobs, "logprobs", torch.float32, *token_ids.shape, any_device=anywhere)
        check(normalizers, "normalizers", torch.float32, len(index), any_device=anywhere)
        if token_ids.shape[1] > logits.shape[1]:
            raise ValueError("token_ids: more than there are logits")
        rows_ = self._rows(rows, len(index))
        self._top_logprobs(rows_, logits, index, token_ids, logprobs, normalizers)

    def rope_write(
        self,
        qkv: Tensor,
        positions: Tensor,
        slot_mapping: Tensor,
        cache: LayerCache,
        *,
        num_heads: int,
        key: Tensor | None = None,
        rotary: Rotary | None = None,
        norms: HeadNorms | None = None,
        clip: float | None = None,
        temperature: tuple[float, float] | None = None,
        rows: Tensor | None = None,
    ) -> None:
        """Clamp, normalise, rotate queries and keys in place; write keys and values to the cache.

        qkv [T, (num_heads + 2 kv heads) * D]: all queries, all keys, all values; with a cache whose
        values are part of its keys [T, num_heads * D], and key [T, kv heads * D]. positions [T]
        int32, slot_mapping [T] int64 (block id * 32 + offset). Rotation pairs feature i with
        i + width / 2 (Hugging Face's order) unless `rotary` is interleaved. clip: all are clamped
        to so much either side of 0. temperature (interval, growth): queries are multiplied by
        log(1 + floor((position + 1) / interval)) * growth + 1.
        """
        self._check_cache(cache, num_heads)
        num_rows, kv_width = qkv.shape[0], cache.num_kv_heads * cache.head_size
        if cache.has_own_values != (key is None):
            raise ValueError("key: needed if, and only if, values are part of the keys")
        width = num_heads * cache.head_size + (2 * kv_width if key is None else 0)
        check(qkv, "qkv", torch.float32, None, width)
        if key is not None:
            check(key, "key", torch.float32, num_rows, kv_width)
        check(positions, "positions", torch.int32, num_rows)
        check(slot_mapping, "slot_mapping", torch.int64, num_rows)
        if rotary is not None:
            self._check_rotary(rotary, cache.head_size)
        if norms is not None:
            self._check_norms(norms, num_heads, cache)
        if clip is not None and clip <= 0:
            raise ValueError("clip: must be positive")
        if temperature is not None and temperature[0] <= 0:
            raise ValueError("temperature: its interval must be positive")
        options = (rotary, norms, clip, temperature)
        self._rope_write(
            self._rows(rows, num_rows),
            (qkv, key),
            positions,
            slot_mapping,
            cache,
            num_heads,
            options,
        )

    def attention(
        self,
        qkv: Tensor,
        cache: LayerCache,
        query_start: Tensor,
        context_lens: Tensor,
        block_table: Tensor,
        out: Tensor,
        *,
        num_heads: int,
        options: AttentionOptions,
        rows: Tensor | None = None,
    ) -> None:
        """Causal attention of each token over its sequence's context, which ends with it.

        The first num_heads * D columns of qkv [T, any] are the queries; out [T, num_heads * value
        size]; query_start [S + 1], context_lens [S], block_table [S, B] int32. `rows` counts
        sequences.
        """
        self._check_cache(cache, num_heads)
        check(out, "out", torch.float32, None, num_heads * cache.value_size)
        check(qkv, "qkv", torch.float32, out.shape[0], None)
        if qkv.shape[1] < num_heads * cache.head_size:
            raise ValueError("qkv: narrower than the queries")
        check(context_lens, "context_lens", torch.int32, None)
        num_sequences = context_lens.shape[0]
        check(query_start, "query_start", torch.int32, num_sequences + 1)
        check(block_table, "block_table", torch.int32, num_sequences, None)
        for name in ("window", "chunk", "soft_cap"):
            value = getattr(options, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: must be positive")
        for name in ("alibi_slopes", "sinks"):
            value = getattr(options, name)
            if value is not None:
                check(value, name, torch.float32, num_heads)
        batch = (query_start, context_lens, block_table)
        rows_ = self._rows(rows, num_sequences)
        self._attention(rows_, qkv, cache, batch, num_heads, options, out)

    def all_reduce(
        self,
        ranks: RankMemory,
        x: Tensor,
        out: Tensor,
        *,
        accumulate: bool = False,
        rows: Tensor | None = None,
    ) -> None:
        """out = sum of x over all ranks, or with `accumulate` added to out. x, out [T, F].

        Every rank calls it with as many rows. They are added in the order of ranks, whoever comes
        first: all ranks get the same bits.
        """
        check(x, "x", torch.float32, None, None)
        check(out, "out", torch.float32, *x.shape)
        self._check_slot(ranks, x)
        self._all_reduce(self._rows(rows, x.shape[0]), ranks, x, out, accumulate)

    def all_gather(
        self, ranks: RankMemory, x: Tensor, out: Tensor, *, rows: Tensor | None = None
    ) -> None:
        """out = all ranks' columns side by side. x [T, this rank's share of C], out [T, C]."""
        check(x, "x", torch.float32, None, None)
        check(out, "out", torch.float32, x.shape[0], None)
        first, last = ranks.columns(out.shape[1])
        check_equal("x: columns", x.shape[1], last - first)
        self._check_slot(ranks, x)
        self._all_gather(self._rows(rows, x.shape[0]), ranks, x, out)

    # Checks

    @staticmethod
    def _check_slot(ranks: RankMemory, x: Tensor) -> None:
        check(ranks.storage, "ranks: storage", torch.uint8, None)
        if x.nbytes > ranks.slot_bytes:
            raise ValueError(f"x: {x.nbytes} bytes do not fit into the {ranks.slot_bytes} of ranks")

    @staticmethod
    def _rows(control: Tensor | None, capacity: int) -> Rows:
        if control is not None:
            check(control, "rows", torch.int32, 1)
        return Rows(control, capacity)

    @staticmethod
    def _check_row_range(weight: PackedWeight, row: int, count: int) -> None:
        if row < 0 or row + count > weight.out_features:
            raise ValueError(f"rows {row}..{row + count} of a weight of {weight.out_features} rows")

    @staticmethod
    def _check_block_format(weight: PackedWeight, block_format: str, first: int) -> None:
        form, size = BLOCK_FORMATS[block_format], weight.group_size
        if (weight.kind, weight.scaling) != (form.kind, form.scaling):
            raise ValueError(f"{block_format} needs {form.kind} scaled by {form.scaling}")
        if form.block_weights % size:
            raise ValueError(f"{block_format} does not divide into groups of {size}")
        if first not in range(0, form.block_weights, size):
            raise ValueError(f"first: at {first} begins no group of the first block")

    def _check_product(self, x: Activation, weight: PackedWeight) -> int:
        num_rows, features = check_activation(x, "x")
        check_equal("x: features", features, weight.in_features)
        self._check_input(x, weight)
        return num_rows

    def _check_input(self, x: Activation, weight: PackedWeight) -> None:
        for part in x.parts if isinstance(x, SplitActivation) else (x,):
            dtypes = self.input_dtypes(weight)
            if isinstance(part, QuantizedActivation) and part.dtype not in dtypes:
                raise ValueError(f"x: this {weight.kind} weight takes no {part.dtype} activations")

    @staticmethod
    def _check_gate(kind: str, out: Activation, num_rows: int, features: int) -> None:
        check_choice(kind, "gate kind", GATE_KINDS)
        check_multiple("gate and up together", features, 2 * GROUP_SIZE)
        out_rows, out_features = check_activation(out, "out")
        check_equal("out: rows", out_rows, num_rows)
        check_equal("out: features", out_features, features // 2)

    @staticmethod
    def _check_head_sizes(head_size: int, value_size: int) -> None:
        if not 1 <= value_size <= head_size <= MAX_HEAD_SIZE:
            raise ValueError(
                f"head size {head_size}, value size {value_size}: values may be as long as keys or "
                f"shorter, keys up to {MAX_HEAD_SIZE}"
            )

    @staticmethod
    def _check_rotary(rotary: Rotary, head_size: int) -> None:
        check(rotary.cos, "cos", torch.float32, None, None)
        check(rotary.sin, "sin", torch.float32, *rotary.cos.shape)
        if not 0 <= rotary.first <= head_size - 2 * rotary.cos.shape[1]:
            raise ValueError("cos: rotates more features than a head has")

    @staticmethod
    def _check_norms(norms: HeadNorms, num_heads: int, cache: LayerCache) -> None:
        check_choice(norms.kind, "norm kind", NORM_KINDS)
        for name, weight, count in (
            ("query norm", norms.query, num_heads),
            ("key norm", norms.key, cache.num_kv_heads),
        ):
            if weight is not None:
                heads = [count] if weight.dim() == 2 else []
                check(weight, name, torch.float32, *heads, cache.head_size)

    def _check_cache(self, cache: LayerCache, num_heads: int) -> None:
        dtype, blocks, heads = cache.keys.dtype, *cache.keys.shape[:2]
        check_choice(dtype, "cache dtype", CACHE_DTYPES)
        self._check_head_sizes(cache.head_size, cache.value_size)
        check_multiple("num_heads", num_heads, heads)
        key_width, value_width = map(padded_head_size, (cache.head_size, cache.value_size))
        check(cache.keys, "keys", dtype, blocks, heads, key_width, BLOCK_SIZE)
        check(cache.values, "values", dtype, blocks, heads, BLOCK_SIZE, value_width)
        if dtype == torch.int8:
            for scales in (cache.key_scales, cache.value_scales):
                if scales is None:
                    raise ValueError("an int8 cache needs scales")
                check(scales, "scales", torch.float32, blocks, heads, BLOCK_SIZE)

    # What an implementation provides, with checked arguments

    @abstractmethod
    def _quantized(self, rows: int, features: int, dtype: torch.dtype) -> QuantizedActivation: ...

    @abstractmethod
    def _empty_weight(
        self, kind: WeightKind, out: int, in_: int, group_size: int, scaling: Scaling
    ) -> PackedWeight: ...

    @abstractmethod
    def _pack_blocks(
        self, weight: PackedWeight, row: int, form: str, blocks: Tensor, first: int
    ) -> None: ...

    @abstractmethod
    def _pack_groups(
        self, weight: PackedWeight, row: int, quants: Tensor, scales: Tensor, offsets: Tensor | None
    ) -> None: ...

    @abstractmethod
    def _pack_floats(self, weight: PackedWeight, row: int, values: Tensor) -> None: ...

    @abstractmethod
    def _embedding(
        self,
        rows: Rows,
        ids: Tensor,
        table: PackedWeight,
        scale: float,
        vocabulary: tuple[int, int],
        out: Tensor,
        accumulate: bool,
    ) -> None: ...

    @abstractmethod
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
    ) -> None: ...

    @abstractmethod
    def _linear(
        self,
        rows: Rows,
        x: Activation,
        weight: PackedWeight,
        bias: Tensor | None,
        out: Tensor,
        accumulate: bool,
    ) -> None: ...

    @abstractmethod
    def _linear_blocks(
        self, rows: Rows, x: Tensor, weights: Sequence[PackedWeight], out: Tensor
    ) -> None: ...

    @abstractmethod
    def _linear_gate(
        self, rows: Rows, x: Activation, weight: PackedWeight, kind: GateKind, out: Activation
    ) -> None: ...

    @abstractmethod
    def _gate(self, rows: Rows, x: Tensor, kind: GateKind, out: Activation) -> None: ...

    @abstractmethod
    def _activate(self, rows: Rows, x: Tensor, kind: ActivationKind, out: Activation) -> None: ...

    @abstractmethod
    def _route(
        self,
        rows: Rows,
        logits: Tensor,
        routing: Routing,
        rule: RoutingRule,
        choice_bias: Tensor | None,
        has_shared: bool,
        shared: Tensor | None,
    ) -> None: ...

    @abstractmethod
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
    ) -> None: ...

    @abstractmethod
    def _soft_cap(self, rows: Rows, x: Tensor, cap: float) -> None: ...

    @abstractmethod
    def _quantize(self, rows: Rows, x: Tensor, out: Activation) -> None: ...

    @abstractmethod
    def _permute(self, rows: Rows, x: Tensor, index: Tensor, out: Activation) -> None: ...

    @abstractmethod
    def _argmax(self, rows: Rows, x: Tensor, out: Tensor) -> None: ...

    @abstractmethod
    def _sample(
        self, rows: Rows, logits: Tensor, draws: Draws, token_ids: Tensor, largest: Tensor
    ) -> None: ...

    @abstractmethod
    def _top_logprobs(
        self,
        rows: Rows,
        logits: Tensor,
        index: Tensor,
        token_ids: Tensor,
        logprobs: Tensor,
        normalizers: Tensor,
    ) -> None: ...

    @abstractmethod
    def _rope_write(
        self,
        rows: Rows,
        states: tuple[Tensor, Tensor | None],
        positions: Tensor,
        slot_mapping: Tensor,
        cache: LayerCache,
        num_heads: int,
        options: HeadOptions,
    ) -> None: ...

    @abstractmethod
    def _attention(
        self,
        rows: Rows,
        qkv: Tensor,
        cache: LayerCache,
        batch: tuple[Tensor, Tensor, Tensor],
        num_heads: int,
        options: AttentionOptions,
        out: Tensor,
    ) -> None: ...

    @abstractmethod
    def _all_reduce(
        self, rows: Rows, ranks: RankMemory, x: Tensor, out: Tensor, accumulate: bool
    ) -> None: ...

    @abstractmethod
    def _all_gather(self, rows: Rows, ranks: RankMemory, x: Tensor, out: Tensor) -> None: ...
