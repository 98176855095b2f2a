"""Activations in two parts: each part is to the bit what the same op makes of its rows alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.kernels import ops
from headrace.kernels.base import Kernels
from headrace.kernels.ops import Op
from headrace.kernels.tensors import (
    Activation,
    ExpertWeights,
    QuantizedActivation,
    Routing,
    Split,
    SplitActivation,
    UniformActivation,
)
from tests.kernels.conftest import BFLOAT16_TWINS, NATIVE, TWINS
from tests.kernels.samples import grouped
from tests.kernels.test_experts import random_routing

ROWS, FEATURES = 37, 96
BOUNDARIES = [0, 1, 16, 21, 36, 37]


def kinds() -> Iterator[Any]:
    """Kernels, and what the rows behind the boundary are held in; those before are int8."""
    for kernels in [*NATIVE, TWINS]:
        yield pytest.param(kernels, torch.float32, id=f"{kernels.name} float32")
    for kernels in [*(k for k in NATIVE if k.has_bfloat16_products), BFLOAT16_TWINS]:
        yield pytest.param(kernels, torch.bfloat16, id=f"{kernels.name} bfloat16")


each_kind = pytest.mark.parametrize(("kernels", "dtype"), list(kinds()))


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    torch.manual_seed(0)
    for kernels in NATIVE:
        kernels.set_num_threads(2)
    yield
    for kernels in NATIVE:
        kernels.set_num_threads(1)


def boundary_at(row: int) -> Tensor:
    return torch.tensor([row], dtype=torch.int32)


def split_activation(
    kernels: Kernels, dtype: torch.dtype, boundary: int, rows: int = ROWS
) -> SplitActivation:
    split = Split(dtype, boundary_at(boundary))
    result = kernels.activation(rows, FEATURES, split=split)
    assert isinstance(result, SplitActivation)
    return result


def filled(
    kernels: Kernels, dtype: torch.dtype, boundary: int, x: Tensor
) -> tuple[SplitActivation, list[tuple[slice, Activation]]]:
    """x in two parts, and the rows of each with an activation of their own."""
    both = split_activation(kernels, dtype, boundary, len(x))
    kernels.run(ops.Quantize(x, both))
    parts = []
    for rows, part_dtype in ((slice(boundary), torch.int8), (slice(boundary, None), dtype)):
        if len(x[rows]):
            alone = kernels.activation(*x[rows].shape, part_dtype)
            kernels.run(ops.Quantize(x[rows], alone))
            parts.append((rows, alone))
    return both, parts


def stored(x: UniformActivation) -> Tensor:
    return x.storage if isinstance(x, QuantizedActivation) else x


WRITERS: dict[str, Callable[[Tensor, Activation, Tensor], Op]] = {
    "quantize": lambda x, out, rows: ops.Quantize(x, out, rows=rows),
    "norm": lambda x, out, rows: ops.Norm(
        x, torch.linspace(0.5, 2, FEATURES), out, eps=1e-5, rows=rows
    ),
    "norm of some rows": lambda x, out, rows: ops.Norm(
        x.flip(0), torch.ones(FEATURES), out, eps=1e-5, rows=rows,
        index=torch.arange(ROWS - 1, -1, -1, dtype=torch.int32),
    ),
    "gate": lambda x, out, rows: ops.Gate(
        torch.cat([x, x.flip(1)], 1), out, kind="silu", rows=rows
    ),
    "activate": lambda x, out, rows: ops.Activate(x, out, kind="gelu", rows=rows),
    "permute": lambda x, out, rows: ops.Permute(
        x, torch.arange(FEATURES - 1, -1, -1, dtype=torch.int32), out, rows=rows
    ),
}  # fmt: skip


@each_kind
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_writers(kernels: Kernels, dtype: torch.dtype, write: Any) -> None:
    x, num_rows = torch.randn(ROWS, FEATURES), ROWS - 1
    for boundary in BOUNDARIES[:-1]:
        both = split_activation(kernels, dtype, boundary)
        kernels.run(write(x, both, boundary_at(num_rows)))
        first = kernels.activation(ROWS, FEATURES)
        kernels.run(write(x, first, boundary_at(boundary)))
        assert torch.equal(stored(both.first), stored(first))
        rest, tail = kernels.activation(ROWS, FEATURES, dtype), x.roll(-boundary, 0)
        kernels.run(write(tail, rest, boundary_at(num_rows - boundary)))
        assert torch.equal(stored(both.rest), stored(rest))


@each_kind
@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("num_rows", [ROWS, 300])
def test_linear(kernels: Kernels, dtype: torch.dtype, kind: Any, num_rows: int) -> None:
    weight = grouped(kind, 50, FEATURES, 32).pack(kernels)
    x, bias, residual = torch.randn(num_rows, FEATURES), torch.randn(50), torch.randn(num_rows, 50)
    for boundary in [*BOUNDARIES, num_rows - 10]:
        both, parts = filled(kernels, dtype, boundary, x)
        out, wanted = residual.clone(), residual.clone()
        kernels.run(ops.Linear(both, weight, out, bias=bias, accumulate=True))
        for rows, alone in parts:
            kernels.run(ops.Linear(alone, weight, wanted[rows], bias=bias, accumulate=True))
        assert torch.equal(out, wanted)


@each_kind
@pytest.mark.parametrize("is_out_split", [False, True])
def test_gate_after_linear(kernels: Kernels, dtype: torch.dtype, is_out_split: bool) -> None:
    """From two parts into two, or into one; more rows than are multiplied at a time."""
    num_rows = 300
    weight = grouped("int4", 2 * FEATURES, FEATURES, 32).pack(kernels)
    x = torch.randn(num_rows, FEATURES)
    for boundary in [*BOUNDARIES, 170]:
        both, parts = filled(kernels, dtype, boundary, x)
        wanted = torch.empty(num_rows, FEATURES)
        for rows, alone in parts:
            kernels.run(ops.LinearGate(alone, weight, wanted[rows], kind="silu"))
        if is_out_split:
            apart, _ = filled(kernels, dtype, boundary, wanted)
            out = split_activation(kernels, dtype, boundary, num_rows)
            kernels.run(ops.LinearGate(both, weight, out, kind="silu"))
            assert torch.equal(stored(out.first), stored(apart.first))
            assert torch.equal(stored(out.rest), stored(apart.rest))
        else:
            floats = torch.empty(num_rows, FEATURES)
            kernels.run(ops.LinearGate(both, weight, floats, kind="silu"))
            assert torch.equal(floats, wanted)


@each_kind
@pytest.mark.parametrize("weighs_inputs", [False, True])
def test_experts(kernels: Kernels, dtype: torch.dtype, weighs_inputs: bool) -> None:
    experts = [
        ExpertWeights(
            (grouped("int4", 2 * size, FEATURES, 32).pack(kernels),),
            grouped("int4", FEATURES, size, 32).pack(kernels),
        )
        for size in (32, 32, 64, 32)
    ]
    gate_up = (grouped("int4", 96, FEATURES, 32), grouped("int8", 96, FEATURES, 32, "zero_point"))
    parts = tuple(weight.pack(kernels) for weight in gate_up)
    experts.append(ExpertWeights(parts, grouped("int4", FEATURES, 96, 32).pack(kernels)))
    x, routing = torch.randn(ROWS, FEATURES), random_routing(ROWS, 5, 2)

    def mix(rows: slice, boundary: int) -> Tensor:
        own = Routing(routing.experts[rows], routing.weights[rows])
        out = torch.ones(len(x[rows]), FEATURES)
        split = Split(dtype, boundary_at(boundary))
        buffers = kernels.expert_buffers(len(out), 2, experts, split=split)
        assert isinstance(buffers.inputs, SplitActivation)
        kernels.run(ops.Experts(
            x[rows], own, experts, out, buffers, kind="silu", weighs_inputs=weighs_inputs,
            accumulate=True,
        ))  # fmt: skip
        return out

    alone = kernels.expert_buffers(ROWS, 2, experts)
    generated = torch.ones(ROWS, FEATURES)
    kernels.run(ops.Experts(
        x, routing, experts, generated, alone, kind="silu", weighs_inputs=weighs_inputs,
        accumulate=True,
    ))  # fmt: skip
    assert torch.equal(mix(slice(ROWS), ROWS), generated)
    assert not torch.equal(mix(slice(ROWS), 0), generated)
    for boundary in BOUNDARIES[1:-1]:
        first, rest = slice(boundary), slice(boundary, ROWS)
        wanted = torch.cat([mix(first, boundary), mix(rest, 0)])
        assert torch.equal(mix(slice(ROWS), boundary), wanted)


@each_kind
def test_a_program_reads_the_boundary_when_it_runs(kernels: Kernels, dtype: torch.dtype) -> None:
    weight = grouped("int4", 50, FEATURES, 32).pack(kernels)
    x, out = torch.randn(ROWS, FEATURES), torch.empty(ROWS, 50)
    both = split_activation(kernels, dtype, 0)
    with kernels.record() as program:
        kernels.run(ops.Quantize(x, both))
        kernels.run(ops.Linear(both, weight, out))
    for boundary in BOUNDARIES:
        both.boundary[0] = boundary
        program.run()
        for rows, alone in filled(kernels, dtype, boundary, x)[1]:
            wanted = torch.empty(len(x[rows]), 50)
            kernels.run(ops.Linear(alone, weight, wanted))
            assert torch.equal(out[rows], wanted)


def test_parts_must_suit_each_other_and_the_weight() -> None:
    weight = grouped("int4", 50, FEATURES, 32).pack(TWINS)
    first, rest = (
        TWINS.activation(4, FEATURES),
        BFLOAT16_TWINS.activation(5, FEATURES, torch.bfloat16),
    )
    with pytest.raises(ValueError, match="rows of the rest"):
        TWINS.run(
            ops.Linear(SplitActivation(first, rest, boundary_at(2)), weight, torch.empty(4, 50))
        )
    rest = BFLOAT16_TWINS.activation(4, FEATURES, torch.bfloat16)
    with pytest.raises(ValueError, match=r"takes no torch\.bfloat16"):
        TWINS.run(
            ops.Linear(SplitActivation(first, rest, boundary_at(2)), weight, torch.empty(4, 50))
        )
