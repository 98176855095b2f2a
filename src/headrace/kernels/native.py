"""The compiled kernels: turns tensors into addresses and numbers for one extension module.

Knows the modules' calling convention (csrc/module.cpp) and the size of their layouts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from headrace.kernels.base import HeadOptions, Kernels
from headrace.kernels.memory import Arena
from headrace.kernels.ranks import RankMemory, Relay
from headrace.kernels.routing import RoutingRule
from headrace.kernels.tensors import (
    BLOCK_FORMATS,
    CACHE_DTYPES,
    GATE_KINDS,
    GROUP_SIZE,
    NORM_KINDS,
    SCALINGS,
    WEIGHT_KINDS,
    ZERO_POINT_STEPS,
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

CELL_ROWS = 16
CELL_BYTES = {torch.int8: 768, torch.bfloat16: 1024}
FORMATS = (torch.float32, torch.int8, torch.bfloat16)
"""Of activations; the order is that of `Format` in csrc/layout.h."""


class NativeProgram:
    """A recorded program; holds on to everything whose address it contains."""

    def __init__(self, module: ModuleType) -> None:
        self.handle = module.new_program()
        self.holds: list[Tensor | Draws | Relay] = []
        self._run = module.run_program

    def run(self) -> None:
        self._run(self.handle)


class NativeKernels(Kernels):
    """Ops of one extension module, run at once or recorded."""

    def __init__(self, module: ModuleType, reason: str) -> None:
        self.name = module.isa
        self.reason = reason
        self.has_bfloat16_tiles = bool(module.has_bfloat16_tiles)
        self._module = module
        self._program: NativeProgram | None = None
        self._weights = Arena()

    @contextmanager
    def record(self) -> Iterator[NativeProgram]:
        self._program = program = NativeProgram(self._module)
        try:
            yield program
        finally:
            self._program = None

    def set_num_threads(self, num_threads: int) -> None:
        if not 1 <= num_threads <= 1024:
            raise ValueError(f"number of threads: {num_threads} is not in 1..1024")
        self._module.set_num_threads(num_threads)

    # Arguments

    def _call(self, op: str, *arguments: Any) -> None:
        handle = self._program.handle if self._program else None
        getattr(self._module, op)(handle, *arguments)

    def _address(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        if self._program is not None:
            self._program.holds.append(tensor)
        return tensor.data_ptr()

    def _draws_address(self, draws: Draws) -> int:
        if self._program is not None:
            self._program.holds.append(draws)
        return draws.ctypes.data

    def _rows_words(self, rows: Rows) -> tuple[int, ...]:
        return self._address(rows.control), rows.capacity, rows.capacity

    def _activation_words(self, x: Activation) -> tuple[int, ...]:
        """Addresses of both parts, features, formats of both parts, address of the boundary."""
        if not isinstance(x, SplitActivation):
            address, features, form = self._part_words(x)
            return address, 0, features, form, form, 0
        address, features, form = self._part_words(x.first)
        rest_address, _, rest_form = self._part_words(x.rest)
        return address, rest_address, features, form, rest_form, self._address(x.boundary)

    def _part_words(self, x: UniformActivation) -> tuple[int, int, int]:
        if isinstance(x, QuantizedActivation):
            return self._address(x.storage), x.features, FORMATS.index(x.dtype)
        return self._address(x), x.shape[1], FORMATS.index(torch.float32)

    def _weight_words(self, weight: PackedWeight) -> tuple[int, ...]:
        return (
            self._address(weight.storage[0]),
            weight.out_features,
            weight.in_features,
            WEIGHT_KINDS.index(weight.kind),
            weight.group_size,
            SCALINGS.index(weight.scaling),
        )

    def _ranks_words(self, ranks: RankMemory) -> tuple[int, ...]:
        words = self._address(ranks.storage), ranks.rank, ranks.size, ranks.slot_bytes
        relay = ranks.relay
        if relay is None:
            return *words, 0, ranks.size, 0
        if self._program is not None:
            self._program.holds.append(relay)
        return *words, relay.here.start, relay.here.stop, relay.address

    def _cache_words(self, cache: LayerCache) -> tuple[int, ...]:
        parts = (cache.keys, cache.values, cache.key_scales, cache.value_scales)
        sizes = (cache.num_blocks, cache.num_kv_heads, cache.head_size, cache.value_size)
        dtype = CACHE_DTYPES.index(cache.keys.dtype)
        return *(self._address(part) for part in parts), dtype, *sizes

    # Storage

    def _quantized(self, rows: int, features: int, dtype: torch.dtype) -> QuantizedActivation:
        cells = -(-rows // CELL_ROWS), features // GROUP_SIZE
        storage = torch.zeros(*cells, CELL_BYTES[dtype], dtype=torch.uint8)
        return QuantizedActivation(rows, features, dtype, storage)

    def _empty_weight(
        self, kind: WeightKind, out: int, in_: int, group_size: int, scaling: Scaling
    ) -> PackedWeight:
        words = WEIGHT_KINDS.index(kind), group_size, SCALINGS.index(scaling)
        storage = self._weights.zeroed(self._module.weight_bytes(0, out, in_, *words))
        return PackedWeight(out, in_, kind, group_size, scaling, (storage,))

    def _pack_blocks(
        self, weight: PackedWeight, row: int, form: str, blocks: Tensor, first: int
    ) -> None:
        source = (blocks.data_ptr(), blocks.stride(0) * blocks.element_size())
        columns = list(BLOCK_FORMATS).index(form), first // GROUP_SIZE
        rows = self._rows_words(Rows(None, blocks.shape[0]))
        self._module.pack_blocks(*rows, *source, *columns, *self._weight_words(weight), row)

    def _pack_groups(
        self, weight: PackedWeight, row: int, quants: Tensor, scales: Tensor, offsets: Tensor | None
    ) -> None:
        if offsets is not None and weight.scaling == "zero_point":
            offsets = (offsets * ZERO_POINT_STEPS[weight.kind]).to(torch.uint8)
        sources = (
            quants.data_ptr(),
            scales.data_ptr(),
            offsets.data_ptr() if offsets is not None else 0,
        )
        rows = self._rows_words(Rows(None, quants.shape[0]))
        self._module.pack_groups(*rows, *sources, *self._weight_words(weight), row)

    def _pack_floats(self, weight: PackedWeight, row: int, values: Tensor) -> None:
        source = (values.data_ptr(), values.stride(0) * values.element_size())
        rows = self._rows_words(Rows(None, values.shape[0]))
        self._module.pack_floats(*rows, *source, *self._weight_words(weight), row)

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
        self._call(
            "embedding",
            *self._rows_words(rows),
            self._address(ids),
            *self._weight_words(table),
            scale,
            *vocabulary,
            self._address(out),
            accumulate,
        )

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
        out_stride = out.stride(0) if isinstance(out, Tensor) else len(weight)
        self._call(
            "norm",
            *self._rows_words(rows),
            self._address(x),
            x.shape[0],
            x.stride(0),
            self._address(index),
            NORM_KINDS.index(kind),
            self._address(weight),
            self._address(bias),
            eps,
            *self._activation_words(out),
            out_stride,
            accumulate,
        )

    def _linear(
        self,
        rows: Rows,
        x: Activation,
        weight: PackedWeight,
        bias: Tensor | None,
        out: Tensor,
        accumulate: bool,
    ) -> None:
        self._call(
            "linear",
            *self._rows_words(rows),
            *self._activation_words(x),
            *self._weight_words(weight),
            self._address(bias),
            self._address(out),
            accumulate,
            out.stride(0),
        )

    def _linear_blocks(
        self, rows: Rows, x: Tensor, weights: Sequence[PackedWeight], out: Tensor
    ) -> None:
        self._call(
            "linear_blocks",
            *self._rows_words(rows),
            self._address(x),
            x.shape[1] // len(weights),
            self._address(out),
            len(weights),
            *(word for weight in weights for word in self._weight_words(weight)),
        )

    def _linear_gate(
        self, rows: Rows, x: Activation, weight: PackedWeight, kind: GateKind, out: Activation
    ) -> None:
        self._call(
            "linear_gate",
            *self._rows_words(rows),
            *self._activation_words(x),
            *self._weight_words(weight),
            GATE_KINDS.index(kind),
            *self._activation_words(out),
        )

    def _gate(self, rows: Rows, x: Tensor, kind: GateKind, out: Activation) -> None:
        words = self._rows_words(rows)
        kind_index = GATE_KINDS.index(kind)
        self._call("gate", *words, self._address(x), kind_index, *self._activation_words(out))

    def _activate(self, rows: Rows, x: Tensor, kind: ActivationKind, out: Activation) -> None:
        words = self._rows_words(rows)
        kind_index = GATE_KINDS.index(kind)
        self._call("activate", *words, self._address(x), kind_index, *self._activation_words(out))

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
        self._call(
            "route",
            *self._rows_words(rows),
            self._address(logits),
            self._address(choice_bias),
            self._address(shared),
            rule.num_experts,
            rule.experts_per_token,
            rule.scores == "sigmoid",
            rule.is_normalized,
            has_shared,
            rule.scale,
            rule.num_groups,
            rule.groups_per_token,
            rule.experts_per_group,
            self._address(routing.experts),
            self._address(routing.weights),
        )

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
        words = [
            word
            for expert in experts
            for word in (
                *self._weight_words(expert.gate_up),
                *self._weight_words(expert.down),
                self._address(expert.gate_up_bias),
                self._address(expert.down_bias),
            )
        ]
        self._call(
            "experts",
            *self._rows_words(rows),
            self._address(x),
            routing.experts.shape[1],
            self._address(routing.experts),
            self._address(routing.weights),
            weighs_inputs,
            self._address(buffers.plan),
            *self._activation_words(buffers.inputs),
            *self._activation_words(buffers.inner),
            self._address(buffers.outputs),
            GATE_KINDS.index(kind),
            self._address(out),
            accumulate,
            len(experts),
            *words,
        )

    def _soft_cap(self, rows: Rows, x: Tensor, cap: float) -> None:
        self._call("soft_cap", *self._rows_words(rows), self._address(x), x.shape[1], cap)

    def _quantize(self, rows: Rows, x: Tensor, out: Activation) -> None:
        words = self._rows_words(rows)
        self._call("quantize", *words, self._address(x), *self._activation_words(out))

    def _permute(self, rows: Rows, x: Tensor, index: Tensor, out: Activation) -> None:
        words = self._rows_words(rows)
        sources = self._address(x), x.shape[1], self._address(index)
        self._call("permute", *words, *sources, *self._activation_words(out))

    def _argmax(self, rows: Rows, x: Tensor, out: Tensor) -> None:
        words = self._rows_words(rows)
        self._call("argmax", *words, self._address(x), x.shape[1], self._address(out))

    def _sample(
        self, rows: Rows, logits: Tensor, draws: Draws, token_ids: Tensor, largest: Tensor
    ) -> None:
        self._call(
            "sample",
            *self._rows_words(rows),
            self._address(logits),
            logits.shape[1],
            self._draws_address(draws),
            self._address(token_ids),
            self._address(largest),
        )

    def _top_logprobs(
        self,
        rows: Rows,
        logits: Tensor,
        index: Tensor,
        token_ids: Tensor,
        logprobs: Tensor,
        normalizers: Tensor,
    ) -> None:
        self._call(
            "top_logprobs",
            *self._rows_words(rows),
            self._address(logits),
            *logits.shape,
            self._address(index),
            token_ids.shape[1],
            self._address(token_ids),
            self._address(logprobs),
            self._address(normalizers),
        )

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
        self._call(
            "rope_write",
            *self._rows_words(rows),
            *self._head_words(*states, cache, num_heads),
            num_heads,
            self._address(positions),
            self._address(slot_mapping),
            *self._rotary_words(rotary),
            *self._norms_words(norms),
            clip or 0.0,
            *(temperature or (0.0, 0.0)),
            *self._cache_words(cache),
        )

    def _head_words(
        self, qkv: Tensor, key: Tensor | None, cache: LayerCache, num_heads: int
    ) -> tuple[int, ...]:
        address, width = self._address(qkv), qkv.shape[1]
        if key is not None:
            return address, width, self._address(key), key.shape[1], 0
        vector = cache.head_size * qkv.element_size()
        keys = address + num_heads * vector
        return address, width, keys, width, keys + cache.num_kv_heads * vector

    def _rotary_words(self, rotary: Rotary | None) -> tuple[int, ...]:
        if rotary is None:
            return 0, 0, 0, 0, 0, 0
        positions, half = rotary.cos.shape
        tables = self._address(rotary.cos), self._address(rotary.sin)
        return *tables, positions, 2 * half, rotary.first, rotary.is_interleaved

    def _norms_words(self, norms: HeadNorms | None) -> tuple[int | float, ...]:
        if norms is None:
            return 0, 0, 0, 0, False, 0.0
        weights = (norms.query, norms.key)
        strides = (0 if w is None or w.dim() == 1 else w.shape[1] for w in weights)
        return *map(self._address, weights), *strides, norms.kind == "layer", norms.epsilon

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
        self._call(
            "attention",
            *self._rows_words(rows),
            self._address(qkv),
            qkv.shape[1],
            num_heads,
            *self._cache_words(cache),
            *(self._address(part) for part in batch),
            batch[2].shape[1],
            out.shape[0],
            options.scale,
            options.window or 0,
            options.soft_cap or 0.0,
            self._address(options.alibi_slopes),
            self._address(options.sinks),
            options.chunk or 0,
            self._address(out),
        )

    def _all_reduce(
        self, rows: Rows, ranks: RankMemory, x: Tensor, out: Tensor, accumulate: bool
    ) -> None:
        words = *self._rows_words(rows), *self._ranks_words(ranks)
        self._call(
            "all_reduce", *words, self._address(x), x.shape[1], self._address(out), accumulate
        )

    def _all_gather(self, rows: Rows, ranks: RankMemory, x: Tensor, out: Tensor) -> None:
        words = *self._rows_words(rows), *self._ranks_words(ranks)
        columns = out.shape[1]
        self._call("all_gather", *words, self._address(x), x.shape[1], columns, self._address(out))
