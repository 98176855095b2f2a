"""The compiled kernels: one extension module, and the storage in its layouts.

Knows the size of the layouts; what crosses over into the module is `kernels.words`' business.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from headrace.kernels.base import Kernels, is_tiled
from headrace.kernels.memory import Arena, zeroed
from headrace.kernels.ops import Op
from headrace.kernels.tensors import (
    BLOCK_FORMATS,
    GROUP_SIZE,
    SCALINGS,
    WEIGHT_KINDS,
    ZERO_POINTS,
    PackedWeight,
    QuantizedActivation,
    Rows,
    Scaling,
    WeightKind,
)
from headrace.kernels.words import weight_words, words

CELL_ROWS = 16
TILE_ROWS = 16
MAX_CODED_FEATURES = 2**20 - 1
"""So that 24 bits say where an exception is among 16 outputs."""
MAX_EXCEPTIONS = 1 / 64
"""Of the numbers of 16 outputs; more would take too long to put in their places."""
CELL_BYTES = {torch.int8: 768, torch.bfloat16: 1024}


class NativeProgram:
    """A recorded program; holds on to the ops, and so to everything whose address it contains."""

    def __init__(self, module: ModuleType) -> None:
        self.handle = module.new_program()
        self.ops: list[Op] = []
        self._run = module.run_program

    def run(self) -> None:
        self._run(self.handle)


class NativeKernels(Kernels):
    """Ops of one extension module, run at once or recorded."""

    def __init__(self, module: ModuleType, reason: str) -> None:
        self.name = module.isa
        self.reason = reason
        self.has_bfloat16_products = bool(module.has_bfloat16_products)
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

    def _run(self, op: Op, rows: Rows) -> None:
        program = self._program
        if program is not None:
            program.ops.append(op)
        call = getattr(self._module, type(op).__name__)
        call(program and program.handle, rows.capacity, *words(op))

    # Storage

    def _quantized(self, rows: int, features: int, dtype: torch.dtype) -> QuantizedActivation:
        cells = -(-rows // CELL_ROWS), features // GROUP_SIZE
        storage = zeroed((*cells, CELL_BYTES[dtype]), torch.uint8, torch.device("cpu"))
        return QuantizedActivation(rows, features, dtype, storage)

    def _empty_weight(
        self, kind: WeightKind, out: int, in_: int, group_size: int, scaling: Scaling
    ) -> PackedWeight:
        words = WEIGHT_KINDS.index(kind), group_size, SCALINGS.index(scaling)
        num_bytes = self._module.weight_bytes(0, out, in_, *words)
        if self.has_bfloat16_products and kind == "bfloat16":
            # Most are given back as soon as they are compressed.
            storage = zeroed((num_bytes,), torch.uint8, torch.device("cpu"))
        else:
            storage = self._weights.zeroed(num_bytes)
        return PackedWeight(out, in_, kind, group_size, scaling, (storage,))

    def compressed(self, weight: PackedWeight) -> PackedWeight:
        if not (self.has_bfloat16_products and weight.kind == "bfloat16" and is_tiled(weight)):
            return weight
        if weight.in_features > MAX_CODED_FEATURES:
            return weight
        counts = torch.empty(-(-weight.out_features // TILE_ROWS), dtype=torch.int32)
        rows, plain = (None, 0, None), weight_words(weight)
        self._module.count_exceptions(*rows, *plain, counts.data_ptr())
        room = int(counts.max()) + 1
        if room > TILE_ROWS * weight.in_features * MAX_EXCEPTIONS:
            return weight
        shape = weight.out_features, weight.in_features
        coded = self._empty_weight("coded_bfloat16", *shape, room, weight.scaling)
        self._module.code(*rows, *plain, *weight_words(coded))
        return coded

    def _pack_blocks(
        self, weight: PackedWeight, row: int, form: str, blocks: Tensor, first: int
    ) -> None:
        source = (blocks.data_ptr(), blocks.stride(0) * blocks.element_size())
        columns = list(BLOCK_FORMATS).index(form), first // GROUP_SIZE
        rows = None, blocks.shape[0], None
        self._module.pack_blocks(*rows, *source, *columns, *weight_words(weight), row)

    def _pack_groups(
        self, weight: PackedWeight, row: int, quants: Tensor, scales: Tensor, offsets: Tensor | None
    ) -> None:
        if offsets is not None and weight.scaling != "minimum":
            offsets = (offsets * ZERO_POINTS[weight.kind].steps).to(torch.uint8)
        sources = (
            quants.data_ptr(),
            scales.data_ptr(),
            offsets.data_ptr() if offsets is not None else 0,
        )
        rows = None, quants.shape[0], None
        self._module.pack_groups(*rows, *sources, *weight_words(weight), row)

    def _pack_floats(self, weight: PackedWeight, row: int, values: Tensor) -> None:
        source = (values.data_ptr(), values.stride(0) * values.element_size())
        rows = None, values.shape[0], None
        self._module.pack_floats(*rows, *source, *weight_words(weight), row)
