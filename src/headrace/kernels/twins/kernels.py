"""The plain-torch twins of the compiled kernels: same rounding, any machine, slowly."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from headrace.kernels import ops
from headrace.kernels.base import Kernels
from headrace.kernels.block_formats import decode
from headrace.kernels.codebooks import CODEBOOKS
from headrace.kernels.ops import Op
from headrace.kernels.tensors import (
    CODE_BITS,
    FLOAT_DTYPES,
    PackedWeight,
    QuantizedActivation,
    Rows,
    Scaling,
    WeightKind,
)
from headrace.kernels.twins import (
    attention,
    collectives,
    experts,
    linear,
    pointwise,
    rope,
    sampling,
)

HELD: dict[Scaling, tuple[torch.dtype, torch.dtype]] = {
    "symmetric": (torch.float16, torch.float16),
    "power_of_two": (torch.float32, torch.float16),
    "minimum": (torch.float16, torch.float16),
    "zero_point": (torch.float16, torch.float32),
    "nibble_zero_point": (torch.float16, torch.float32),
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
TWINS: dict[type[Op], Callable[[Any, int], None]] = {
    ops.Embedding: pointwise.embedding,
    ops.Norm: pointwise.norm,
    ops.Gate: pointwise.gate,
    ops.Activate: pointwise.activate,
    ops.SoftCap: pointwise.soft_cap,
    ops.Quantize: pointwise.quantize,
    ops.Permute: pointwise.permute,
    ops.Linear: linear.linear,
    ops.LinearBlocks: linear.linear_blocks,
    ops.LinearGate: linear.linear_gate,
    ops.Route: experts.route,
    ops.Experts: experts.experts,
    ops.RopeWrite: rope.rope_write,
    ops.Attention: attention.attention,
    ops.Argmax: sampling.argmax,
    ops.Allow: sampling.allow,
    ops.Sample: sampling.sample,
    ops.TopLogprobs: sampling.top_logprobs,
    ops.AllReduce: collectives.all_reduce,
    ops.AllGather: collectives.all_gather,
}
"""What each op does, on so many rows."""


class TorchProgram:
    """A list of closures."""

    def __init__(self) -> None:
        self.ops: list[Callable[[], None]] = []

    def run(self) -> None:
        for op in self.ops:
            op()


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

    def _run(self, op: Op, rows: Rows) -> None:
        twin = TWINS[type(op)]
        if self._program is not None:
            self._program.ops.append(lambda: twin(op, rows.count()))
        else:
            twin(op, rows.count())

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
            if weight.scaling == "minimum":
                minima = offsets + middle * scales
            else:
                minima = (middle - offsets) * scales.half()
            weight.storage[2][row:last] = minima

    def _pack_floats(self, weight: PackedWeight, row: int, values: Tensor) -> None:
        weight.storage[0][row : row + values.shape[0]] = values
