"""Products with packed weights, against float64 and against the twins."""

from dataclasses import replace

import pytest
import torch

from headrace.kernels import ops
from headrace.kernels.base import Kernels
from headrace.kernels.dispatch import native_modules
from headrace.kernels.native import NativeKernels
from headrace.kernels.tensors import LAYOUTS, Scaling, WeightKind
from tests.kernels.conftest import NATIVE
from tests.kernels.samples import (
    Dense,
    activations,
    dense,
    exact_values,
    fake_quantized,
    grouped,
    quantized,
    rounded,
)

INTEGER_WEIGHTS = [
    ("int4", 32, "minimum"),
    ("int4", 32, "symmetric"),
    ("int4", 64, "minimum"),
    ("int4", 128, "minimum"),
    ("int4", 128, "symmetric"),
    ("int8", 32, "symmetric"),
    ("int8", 32, "minimum"),
    ("int8", 128, "minimum"),
    ("int4", 32, "zero_point"),
    ("int4", 128, "zero_point"),
    ("int8", 32, "zero_point"),
    ("int4", 128, "super_block"),
    ("int4", 32, "super_block"),
    ("int5", 128, "super_block"),
    ("int5", 32, "symmetric"),
    ("int5", 32, "minimum"),
    ("int2", 32, "symmetric"),
    ("int2", 32, "nibble_zero_point"),
    ("int2", 64, "nibble_zero_point"),
    ("int2", 32, "minimum"),
    ("int3", 64, "symmetric"),
    ("int3", 32, "nibble_zero_point"),
    ("int3", 32, "minimum"),
    ("int2", 128, "nibble_super_block"),
    ("int3", 128, "signed_super_block"),
    ("int6", 128, "signed_super_block"),
    ("int6", 32, "signed_super_block"),
]
ROWS = [1, 2, 3, 7, 8, 9, 17, 64, 70]


TOLERANCE = 1e-6


def error(
    got: torch.Tensor, x: torch.Tensor, weight: Dense, added: float | torch.Tensor = 0.0
) -> float:
    """Largest error as a fraction of what cancelled in the sum."""
    wanted = x.double() @ weight.values.T + added
    size = x.double().abs() @ weight.values.abs().T
    return float(((got.double() - wanted).abs() / size).max())


@pytest.mark.parametrize(("kind", "group_size", "scaling"), INTEGER_WEIGHTS)
@pytest.mark.parametrize("out", [1, 16, 50, 96])
def test_integer_weights(
    kernels: Kernels, kind: WeightKind, group_size: int, scaling: Scaling, out: int
) -> None:
    weight = grouped(kind, out, 640, group_size, scaling)
    packed = weight.pack(kernels)
    for rows in ROWS:
        x = activations(rows, 640)
        result = torch.empty(rows, out)
        kernels.run(ops.Linear(quantized(kernels, x), packed, result))
        assert error(result, fake_quantized(x), weight) < TOLERANCE
        kernels.run(ops.Linear(x, packed, result))
        assert error(result, x, weight) < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "group_size"), [("nf4", 64), ("fp4", 32), ("mxfp4", 32), ("float8", 640)]
)
@pytest.mark.parametrize("out", [1, 50])
def test_codebook_weights(kernels: Kernels, kind: WeightKind, group_size: int, out: int) -> None:
    weight = grouped(kind, out, 640, group_size, LAYOUTS[kind][0])
    packed = weight.pack(kernels)
    for rows in ROWS:
        x, result = activations(rows, 640), torch.empty(rows, out)
        kernels.run(ops.Linear(x, packed, result))
        assert error(result, x, weight) < TOLERANCE
        if packed.is_integer:
            kernels.run(ops.Linear(quantized(kernels, x), packed, result))
            assert error(result, fake_quantized(x), rounded(weight)) < TOLERANCE
        else:
            with pytest.raises(ValueError, match="this float8 weight takes no torch.int8"):
                kernels.run(ops.Linear(quantized(kernels, x), packed, result))


def test_powers_of_two_from_the_least_to_the_largest(kernels: Kernels) -> None:
    """Those of E8M0, which float32 holds, the least as a subnormal number."""
    exponents = torch.arange(-127, 128)
    scales = torch.ldexp(torch.ones(255, 1), exponents[:, None])
    weight = kernels.empty_weight("mxfp4", 255, 32, scaling="power_of_two")
    codes = torch.full((255, 32), 2, dtype=torch.uint8)  # 1.0
    kernels.pack_groups(weight, 0, codes, scales)
    out = torch.empty(255, 32)
    kernels.run(ops.Embedding(torch.arange(255, dtype=torch.int32), weight, out))
    assert torch.equal(out, scales.expand(255, 32))


@pytest.mark.parametrize("kind", ["int2", "int3"])
def test_rows_packed_apart_keep_each_others_zero_points(kernels: Kernels, kind: WeightKind) -> None:
    """Two outputs share a byte, also where a tile is filled in several calls, or again."""
    whole = grouped(kind, 50, 96, 32, "nibble_zero_point")
    weight = kernels.empty_weight(kind, 50, 96, scaling="nibble_zero_point")
    quants, scales, zero_points = whole.parts
    kernels.pack_groups(weight, 0, quants, scales, 15 - zero_points)
    for rows in (slice(0, 5), slice(5, 27), slice(27, 50)):
        parts = (part[rows].contiguous() for part in whole.parts)
        kernels.pack_groups(weight, rows.start, *parts)
    out = torch.empty(50, 96)
    kernels.run(ops.Embedding(torch.arange(50, dtype=torch.int32), weight, out))
    torch.testing.assert_close(out.double(), whole.values, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scaling", ["minimum", "zero_point", "super_block"])
def test_codebooks_are_symmetric(kernels: Kernels, scaling: Scaling) -> None:
    with pytest.raises(ValueError, match=f"scaling of nf4: '{scaling}' is none of symmetric"):
        kernels.empty_weight("nf4", 16, 64, scaling=scaling)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("out", "in_"), [(1, 32), (50, 100), (96, 640), (33, 7)])
def test_float_weights(kernels: Kernels, kind: WeightKind, out: int, in_: int) -> None:
    weight = dense(kind, out, in_)
    packed = weight.pack(kernels)
    for rows in ROWS:
        x = torch.randn(rows, in_)
        result = torch.empty(rows, out)
        kernels.run(ops.Linear(x, packed, result))
        assert error(result, x, weight) < TOLERANCE


@pytest.mark.parametrize(("out", "in_"), [(1, 32), (50, 96), (96, 640)])
def test_bfloat16_activations(tiled: Kernels, out: int, in_: int) -> None:
    weight = dense("bfloat16", out, in_)
    packed = weight.pack(tiled)
    assert tiled.input_dtypes(packed) == (torch.bfloat16, torch.float32)
    for rows in ROWS:
        x, result = torch.randn(rows, in_), torch.empty(rows, out)
        tiled.run(ops.Linear(quantized(tiled, x, torch.bfloat16), packed, result))
        assert error(result, x.bfloat16(), weight) < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "group_size", "scaling"),
    [
        *INTEGER_WEIGHTS,
        ("nf4", 32, "symmetric"),
        ("fp4", 32, "symmetric"),
        ("mxfp4", 32, "power_of_two"),
    ],
)
@pytest.mark.parametrize("out", [1, 50])
def test_weights_in_groups_are_rounded_for_bfloat16_activations(
    tiled: Kernels, kind: WeightKind, group_size: int, scaling: Scaling, out: int
) -> None:
    weight = grouped(kind, out, 640, group_size, scaling)
    packed = weight.pack(tiled)
    assert tiled.input_dtypes(packed) == (torch.int8, torch.bfloat16, torch.float32)
    values = replace(weight, values=weight.values.float().bfloat16().double())
    for rows in ROWS:
        x, result = torch.randn(rows, 640), torch.empty(rows, out)
        tiled.run(ops.Linear(quantized(tiled, x, torch.bfloat16), packed, result))
        assert error(result, x.bfloat16(), values) < TOLERANCE


def test_bfloat16_sums_have_two_chains_for_32_inputs() -> None:
    """What the instruction is documented to compute: even and odd inputs apart, each in order."""
    kernels = next((k for k in NATIVE if k.has_bfloat16_tiles), None)
    if kernels is None:
        pytest.skip("needs AMX")
    torch.manual_seed(0)
    weight, x = dense("bfloat16", 16, 96), torch.randn(16, 96)
    result = torch.empty(16, 16)
    kernels.run(ops.Linear(quantized(kernels, x, torch.bfloat16), weight.pack(kernels), result))
    left, right = x.bfloat16().double(), weight.values
    total = torch.zeros(16, 16)
    for first in range(0, 96, 32):
        chains = [torch.zeros(16, 16), torch.zeros(16, 16)]
        for k in range(first, first + 32, 4):
            for chain, inputs in enumerate([(k, k + 1), (k + 2, k + 3)]):
                for i in inputs:
                    product = torch.outer(left[:, i], right[:, i])
                    chains[chain] = (chains[chain].double() + product).float()
        total = total + (chains[0] + chains[1])
    assert torch.equal(result, total)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("columns", [slice(0, 50), slice(7, 57)])
def test_bias_and_residual(kernels: Kernels, exact: bool, columns: slice) -> None:
    weight = grouped("int4", 50, 64, 32, "minimum")
    x, bias, wide = activations(9, 64), torch.randn(50), torch.randn(9, 57)
    before, result = wide.clone(), wide[:, columns]
    activation = x if exact else quantized(kernels, x)
    kernels.run(ops.Linear(activation, weight.pack(kernels), result, bias=bias, accumulate=True))
    inputs = x if exact else fake_quantized(x)
    assert error(result, inputs, weight, bias + before[:, columns]) < TOLERANCE
    result.copy_(before[:, columns])
    assert torch.equal(wide, before)  # beside its columns


@pytest.mark.parametrize("kind", ["float16", "float32"])
@pytest.mark.parametrize("rows", [1, 7, 140])
def test_blocks_of_columns(kernels: Kernels, kind: WeightKind, rows: int) -> None:
    """Each block times its weight; what a block has more than the weight reads is kept."""
    weights = [dense(kind, 50, 24) for _ in range(3)]
    x, out = torch.randn(rows + 2, 3 * 30), torch.zeros(rows + 2, 3 * 56)
    control = torch.tensor([rows], dtype=torch.int32)
    kernels.run(
        ops.LinearBlocks(x, [weight.pack(kernels) for weight in weights], out, rows=control)
    )
    blocks = x[:rows].double().split(30, dim=1)
    wanted = [
        part
        for block, weight in zip(blocks, weights, strict=True)
        for part in (block[:, :24] @ weight.values.T, block[:, 24:])
    ]
    torch.testing.assert_close(out[:rows].double(), torch.cat(wanted, 1), rtol=1e-5, atol=1e-5)
    assert (out[rows:] == 0).all()


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("exact_out", [False, True])
@pytest.mark.parametrize("rows", [1, 8, 13, 70])
def test_fused_gate_is_gate_after_linear(
    kernels: Kernels, kind: str, exact_out: bool, rows: int
) -> None:
    dtype = torch.float32 if exact_out else torch.int8
    check_fused_gate(kernels, kind, rows, torch.int8, dtype)


@pytest.mark.parametrize("rows", [1, 13, 70, 700])
def test_fused_gate_with_bfloat16_activations(tiled: Kernels, rows: int) -> None:
    check_fused_gate(tiled, "silu", rows, torch.bfloat16, torch.bfloat16)


def check_fused_gate(
    kernels: Kernels, kind: str, rows: int, dtype: torch.dtype, out_dtype: torch.dtype
) -> None:
    weight = grouped("int4", 192, 64, 32, "minimum").pack(kernels)
    x = quantized(kernels, torch.randn(rows, 64), dtype)
    product = torch.empty(rows, 192)
    kernels.run(ops.Linear(x, weight, product))
    fused, apart = (kernels.activation(rows, 96, out_dtype) for _ in range(2))
    kernels.run(ops.LinearGate(x, weight, fused, kind=kind))  # type: ignore[arg-type]
    kernels.run(ops.Gate(product, apart, kind=kind))  # type: ignore[arg-type]
    assert torch.equal(exact_values(kernels, fused), exact_values(kernels, apart))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "weight_of",
    [
        lambda: grouped("int4", 70, 1280, 32, "minimum"),
        lambda: grouped("int4", 70, 1280, 128, "symmetric"),
        lambda: grouped("int8", 70, 1280, 32, "symmetric"),
        lambda: grouped("int4", 70, 1280, 32, "zero_point"),
        lambda: grouped("int8", 70, 1280, 64, "zero_point"),
        lambda: grouped("int4", 70, 1280, 256, "super_block"),
        lambda: grouped("int5", 70, 1280, 64, "super_block"),
        lambda: grouped("int2", 70, 1280, 256, "nibble_super_block"),
        lambda: grouped("int6", 70, 1280, 256, "signed_super_block"),
        lambda: grouped("int2", 70, 1280, 32, "nibble_zero_point"),
        lambda: grouped("int3", 70, 1280, 64, "nibble_zero_point"),
        lambda: grouped("nf4", 70, 1280, 64, "symmetric"),
        lambda: grouped("mxfp4", 70, 1280, 32, "power_of_two"),
        lambda: grouped("float8", 70, 1280, 128, "symmetric"),
        lambda: dense("bfloat16", 70, 1280),
        lambda: dense("float16", 70, 1280),
        lambda: dense("float32", 70, 1280),
    ],
)
def test_rows_do_not_depend_on_batch_or_threads(
    native: Kernels, weight_of: type[Dense], dtype: torch.dtype
) -> None:
    weight = weight_of().pack(native)
    if dtype not in native.input_dtypes(weight):
        pytest.skip("not read")
    x = torch.randn(150, 1280)

    def product(rows: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(rows), 70)
        activation = rows if dtype == torch.float32 else quantized(native, rows, dtype)
        native.run(ops.Linear(activation, weight, out))
        return out

    whole = product(x)
    for threads in (1, 2, 3):
        native.set_num_threads(threads)
        for first, last in [(0, 1), (3, 4), (5, 15), (5, 16), (8, 25), (0, 64), (1, 150)]:
            assert torch.equal(product(x[first:last].contiguous()), whole[first:last])
    order = torch.randperm(150)
    assert torch.equal(product(x[order]), whole[order])


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [
        ("int4", "minimum"),
        ("int4", "zero_point"),
        ("int2", "nibble_zero_point"),
        ("int3", "nibble_zero_point"),
        ("int3", "symmetric"),
        ("int5", "symmetric"),
        ("int5", "super_block"),
        ("int6", "signed_super_block"),
        ("nf4", "symmetric"),
        ("mxfp4", "power_of_two"),
    ],
)
def test_modules_with_and_without_tiles_agree_to_the_bit(
    kind: WeightKind, scaling: Scaling
) -> None:
    isas = "amx", "avx512_bf16", "avx512_vnni"
    modules = [NativeKernels(module, "test") for module in native_modules() if module.isa in isas]
    if len(modules) < 2:
        pytest.skip("needs AMX or AVX-512 BF16")
    x, weight = torch.randn(60, 1280), grouped(kind, 70, 1280, 32, scaling)
    results = []
    for kernels in modules:
        out = torch.empty(60, 70)
        kernels.run(ops.Linear(quantized(kernels, x), weight.pack(kernels), out))
        results.append(out)
    assert all(torch.equal(results[0], other) for other in results[1:])
