"""Kernels for CPUs: what they hold and how that is filled, the checks of it, and the way ops take.

Knows neither how an implementation lays out its storage nor what an op does (`kernels.ops`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from headrace.kernels.cache import check_head_sizes, padded_head_size
from headrace.kernels.memory import zeroed
from headrace.kernels.ops import Op
from headrace.kernels.tensors import (
    BLOCK_FORMATS,
    BLOCK_SIZE,
    CACHE_DTYPES,
    CODE_BITS,
    FLOAT_DTYPES,
    GROUP_SIZE,
    LAYOUTS,
    Activation,
    ExpertBuffers,
    ExpertWeights,
    LayerCache,
    PackedWeight,
    QuantizedActivation,
    Rows,
    Scaling,
    Split,
    SplitActivation,
    UniformActivation,
    WeightKind,
    are_zero_points,
    check,
    check_choice,
    check_equal,
    check_half_range,
    check_multiple,
    check_powers_of_two,
    check_rows,
)

SLOT_MULTIPLE = 16
"""Slots of one expert's rows of one part: whole blocks of quantized activations."""


class Program(Protocol):
    """Ops recorded over fixed buffers, to be run again with whatever these then hold."""

    def run(self) -> None:
        """Run all ops in order. Raises ValueError for data outside the buffers' limits."""
        ...


def is_tiled(weight: PackedWeight) -> bool:
    """Whether products of bfloat16 can multiply it without rounding it."""
    is_whole = weight.in_features % GROUP_SIZE == 0
    return weight.kind == "coded_bfloat16" or (weight.kind == "bfloat16" and is_whole)


class Kernels(ABC):
    """One implementation of the ops. All methods raise ValueError for shapes that do not fit."""

    name: str
    reason: str
    """For people: what is in use, and why."""
    has_bfloat16_products = False
    """Whether bfloat16 is multiplied as it is: activations (see `input_dtypes`), and a cache, which
    is quicker than others then."""
    has_bfloat16_tiles = False
    """Whether it is by whole tiles, so that of many rows it is quicker than int8."""
    samples_anywhere = False
    """Whether the ops on logits take those of other devices too."""

    # Ops, programs and threads

    def run(self, op: Op) -> None:
        """Do what the op's class says, or record it."""
        self._run(op, op.checked_rows(self))

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
        if self.has_bfloat16_products and (weight.is_integer or is_tiled(weight)):
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
            return zeroed((rows, features), torch.float32, torch.device("cpu"))
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
        """A zeroed cache of float32, float16, bfloat16, int8 (scaled per token and head) or floats
        of 8 bits.

        value_size: values are the first so many elements of their keys.
        """
        check_choice(dtype, "cache dtype", CACHE_DTYPES)
        sizes = head_size, head_size if value_size is None else value_size
        check_head_sizes(*sizes)
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
        hidden = experts[0].gate_up[0].in_features
        inner = max(expert.down.in_features for expert in experts)

        def dtype(weights: list[PackedWeight]) -> torch.dtype:
            dtypes = {self.input_dtype(weight) for weight in weights}
            return torch.float32 if exact or len(dtypes) > 1 else dtypes.pop()

        inputs = dtype([weight for expert in experts for weight in expert.gate_up])
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
        check_choice(kind, "weight kind", (*LAYOUTS, *FLOAT_DTYPES))
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
        or -128..127 and the like, or are codes. Kept are scales in float16, or powers of two, and
        the float16 value of quant 0, of 8 bits 128; zero points must be whole, of 4 bits in
        sixteenths.
        """
        if not weight.is_grouped:
            raise ValueError("groups need a weight of a kind in groups")
        check(quants, "quants", torch.uint8, None, weight.in_features)
        num_rows, num_groups = quants.shape[0], weight.in_features // weight.group_size
        bits = CODE_BITS[weight.kind]
        if int(quants.max()) >= 2**bits:
            raise ValueError(f"quants: above {2**bits - 1} in a weight of {bits} bits")
        check(scales, "scales", torch.float32, num_rows, num_groups)
        check_scales = check_powers_of_two if weight.scaling == "power_of_two" else check_half_range
        check_scales("scales", scales)
        if "super_block" in weight.scaling:
            raise ValueError("a weight in super-blocks takes blocks only")
        if (offsets is None) != (weight.scaling in ("symmetric", "power_of_two")):
            raise ValueError("offsets: needed if, and only if, the weight is not symmetric")
        if offsets is not None:
            check(offsets, "offsets", torch.float32, num_rows, num_groups)
            if weight.scaling == "minimum":
                check_half_range("minima", offsets)
            elif not are_zero_points(offsets, weight.kind):
                raise ValueError("zero points: not in steps that the weight holds")
        self._check_row_range(weight, row, num_rows)
        self._pack_groups(weight, row, quants, scales, offsets)

    def pack_floats(self, weight: PackedWeight, row: int, values: Tensor) -> None:
        """Fill rows from `row` of a float weight with values [rows, in] of any float dtype."""
        if weight.kind not in FLOAT_DTYPES:
            raise ValueError("floats need a weight of a float kind")
        values = values.to(FLOAT_DTYPES[weight.kind])
        check_rows(values, "values")
        check_equal("values: row length", values.shape[1], weight.in_features)
        self._check_row_range(weight, row, values.shape[0])
        self._pack_floats(weight, row, values)

    def compressed(self, weight: PackedWeight) -> PackedWeight:
        """The same numbers in fewer bytes, where these kernels can hold them so, else `weight`
        itself. All products are the same, bit for bit."""
        return weight

    # Checks

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

    # What an implementation provides, with checked arguments

    @abstractmethod
    def _run(self, op: Op, rows: Rows) -> None: ...

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
