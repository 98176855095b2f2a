"""bfloat16 weights in 12 bits: the same products, bit for bit, or the weight as it was."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.kernels import ops
from headrace.kernels.base import Kernels
from headrace.kernels.tensors import FLOAT_DTYPES, PackedWeight, WeightKind
from tests.kernels.conftest import NATIVE
from tests.kernels.samples import quantized

SPECIAL = (0x0000, 0x8000, 0x0001, 0x807F, 0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 0x7F7F)
"""Zeros, denormals, infinities, NaNs, the largest number."""
TILED = [kernels for kernels in NATIVE if kernels.has_bfloat16_products]

needs_tiles = pytest.mark.skipif(not TILED, reason="no kernels with bfloat16 tiles")


def packed(kernels: Kernels, values: Tensor) -> PackedWeight:
    weight = kernels.empty_weight("bfloat16", *values.shape)
    kernels.pack_floats(weight, 0, values)
    return weight


def rows_of(kernels: Kernels, weight: PackedWeight) -> Tensor:
    """The numbers of a weight, looked up: their bits [out, in], but that -0 becomes 0."""
    out = torch.empty(weight.out_features, weight.in_features)
    ids = torch.arange(weight.out_features, dtype=torch.int32)
    kernels.run(ops.Embedding(ids, weight, out))
    return out.view(torch.int32)


def normal(out: int, in_: int) -> Tensor:
    return (torch.randn(out, in_) * 0.02).bfloat16()


def with_outliers(out: int, in_: int) -> Tensor:
    """Some of each: zeros, numbers of any exponent, and at odd places all special ones."""
    values = normal(out, in_)
    values[torch.rand(out, in_) < 0.1] = 0
    bits = values.view(torch.int16).flatten()
    few = torch.randperm(len(bits))[: len(bits) // 500]
    bits[few] = torch.randint(-(2**15), 2**15, few.shape, dtype=torch.int16)
    places = torch.randperm(len(bits))[: len(SPECIAL)]
    bits[places] = torch.tensor(SPECIAL, dtype=torch.int32).to(torch.int16)
    return bits.view(torch.bfloat16).view(out, in_)


@needs_tiles
@pytest.mark.parametrize("kernels", TILED, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("make", [normal, with_outliers])
@pytest.mark.parametrize(("out", "in_"), [(50, 512), (16, 640), (130, 1184), (576, 1536)])
def test_products_are_the_same_bits(
    kernels: Kernels, make: Callable[[int, int], Tensor], out: int, in_: int
) -> None:
    torch.manual_seed(out)
    weight = packed(kernels, make(out, in_))
    coded = kernels.compressed(weight)
    assert coded.kind == "coded_bfloat16"
    for rows in (*range(1, 41), 65, 150):
        x = torch.randn(rows, in_)
        for inputs in (quantized(kernels, x, torch.bfloat16), x):
            plain, result = torch.zeros(rows, out), torch.zeros(rows, out)
            kernels.run(ops.Linear(inputs, weight, plain))
            kernels.run(ops.Linear(inputs, coded, result))
            assert torch.equal(plain.view(torch.int32), result.view(torch.int32)), rows
    assert torch.equal(rows_of(kernels, weight), rows_of(kernels, coded))


@needs_tiles
@pytest.mark.parametrize("kernels", TILED, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("rows", [1, 33, 70])
def test_gates_are_the_same_bits(kernels: Kernels, rows: int) -> None:
    torch.manual_seed(rows)
    weight = packed(kernels, normal(192, 1184))
    x = quantized(kernels, torch.randn(rows, 1184), torch.bfloat16)
    plain, result = torch.zeros(rows, 96), torch.zeros(rows, 96)
    kernels.run(ops.LinearGate(x, weight, plain, kind="silu"))
    kernels.run(ops.LinearGate(x, kernels.compressed(weight), result, kind="silu"))
    assert torch.equal(plain, result) and plain.any()


@needs_tiles
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_numbers_come_back(data: st.DataObject) -> None:
    (kernels,) = TILED
    out, in_ = data.draw(st.integers(1, 40)), 32 * data.draw(st.integers(1, 6))
    exponents = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=20))
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    chosen = torch.tensor(exponents)[torch.randint(0, len(exponents), (out, in_))]
    bits = chosen << 7 | torch.randint(0, 128, (out, in_)) | torch.randint(0, 2, (out, in_)) << 15
    values = bits.to(torch.int16).view(torch.bfloat16)
    weight = packed(kernels, values)
    found = rows_of(kernels, kernels.compressed(weight))
    wanted = values.float()
    is_number = ~wanted.isnan()
    assert torch.equal(found.view(torch.float32)[is_number], wanted[is_number])
    assert torch.equal(found, rows_of(kernels, weight))


def test_normal_weights_take_three_quarters(kernels: Kernels) -> None:
    weight = packed(kernels, normal(576, 576))
    taken = kernels.compressed(weight).num_bytes / weight.num_bytes
    assert taken <= 0.78 if kernels in TILED else taken == 1


@pytest.mark.parametrize(
    "values",
    [
        torch.randint(-(2**15), 2**15, (48, 64), dtype=torch.int16).view(torch.bfloat16),
        torch.randn(48, 80).bfloat16(),
        torch.randn(48, 64).half(),
        torch.randn(48, 64),
    ],
    ids=["of any exponents", "80 inputs", "float16", "float32"],
)
def test_others_stay_as_they_are(kernels: Kernels, values: Tensor) -> None:
    kinds: dict[torch.dtype, WeightKind] = {dtype: kind for kind, dtype in FLOAT_DTYPES.items()}
    weight = kernels.empty_weight(kinds[values.dtype], *values.shape)
    kernels.pack_floats(weight, 0, values)
    assert kernels.compressed(weight) is weight


@needs_tiles
@pytest.mark.parametrize("kernels", TILED, ids=lambda kernels: kernels.name)
def test_one_wild_tile_keeps_a_weight_as_it_is(kernels: Kernels) -> None:
    values = normal(64, 512)
    values[40, :240] = (2.0 ** torch.arange(-120, 120).float()).bfloat16()
    weight = packed(kernels, values)
    assert kernels.compressed(weight) is weight
    values[40, 120:240] = 0
    assert kernels.compressed(packed(kernels, values)).kind == "coded_bfloat16"


@needs_tiles
def test_a_coded_weight_takes_no_rows() -> None:
    (kernels,) = TILED
    coded = kernels.compressed(packed(kernels, normal(16, 512)))
    with pytest.raises(ValueError, match="float kind"):
        kernels.pack_floats(coded, 0, normal(16, 512))
    with pytest.raises(ValueError, match="weight kind"):
        kernels.empty_weight("coded_bfloat16", 16, 512)
