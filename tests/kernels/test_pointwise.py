"""Embedding, norm, gate, quantize and argmax, against torch in float64."""

import pytest
import torch
from torch.nn import functional

from headrace.kernels import ops
from headrace.kernels.base import Kernels
from headrace.kernels.tensors import GateKind, NormKind, Scaling, WeightKind
from tests.kernels.samples import dense, exact_values, fake_quantized, grouped

FUNCTIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 2e-6) -> bool:
    return float((got.double() - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("kind", "group_size", "scaling"),
    [
        ("int4", 32, "minimum"),
        ("int4", 64, "symmetric"),
        ("int8", 32, "symmetric"),
        ("int8", 64, "minimum"),
        ("int4", 32, "zero_point"),
        ("int8", 64, "zero_point"),
        ("int4", 128, "super_block"),
        ("int5", 32, "super_block"),
        ("int2", 64, "nibble_zero_point"),
        ("int3", 32, "symmetric"),
        ("int2", 32, "nibble_super_block"),
        ("int3", 64, "signed_super_block"),
        ("int6", 128, "signed_super_block"),
        ("nf4", 64, "symmetric"),
        ("fp4", 32, "symmetric"),
        ("mxfp4", 32, "power_of_two"),
        ("float8", 128, "symmetric"),
    ],  # fmt: skip
)
def test_embedding_of_groups(
    kernels: Kernels, kind: WeightKind, group_size: int, scaling: Scaling
) -> None:
    table = grouped(kind, 50, 128, group_size, scaling)
    ids = torch.randint(0, 50, (11,), dtype=torch.int32)
    out = torch.empty(11, 128)
    kernels.run(ops.Embedding(ids, table.pack(kernels), out, scale=2.0))
    assert close(out, table.values[ids.long()] * 2, 1e-6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_embedding_of_floats(kernels: Kernels, kind: WeightKind) -> None:
    table = dense(kind, 50, 100)
    ids = torch.randint(0, 50, (11,), dtype=torch.int32)
    out = torch.empty(11, 100)
    kernels.run(ops.Embedding(ids, table.pack(kernels), out))
    assert torch.equal(out.double(), table.values[ids.long()])


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_embedding_adds_to_its_output(kernels: Kernels, kind: WeightKind) -> None:
    table = grouped("int8", 50, 96, 32, "minimum") if kind == "int8" else dense(kind, 50, 96)
    ids, out = torch.randint(0, 50, (11,), dtype=torch.int32), torch.randn(11, 96)
    wanted = out + table.values[ids.long()] * 3
    kernels.run(ops.Embedding(ids, table.pack(kernels), out, scale=3.0, accumulate=True))
    assert close(out, wanted, 1e-6)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("features", [32, 100, 576])
@pytest.mark.parametrize("rows", [1, 8, 19])
def test_norm(kernels: Kernels, kind: NormKind, features: int, rows: int) -> None:
    x, weight, bias = torch.randn(30, features) + 0.5, torch.randn(features), torch.randn(features)
    index = torch.randperm(30)[:rows].int()
    out = torch.empty(rows, features)
    kernels.run(ops.Norm(x, weight, out, kind=kind, eps=1e-5, bias=bias, index=index))
    values = x[index.long()].double()
    if kind == "layer":
        wanted = functional.layer_norm(values, (features,), weight.double(), bias.double(), 1e-5)
    else:
        wanted = functional.rms_norm(values, (features,), weight.double(), 1e-5) + bias
    assert close(out, wanted)


def test_norm_into_quantized_is_quantized_norm(kernels: Kernels) -> None:
    x, weight = torch.randn(13, 576), torch.randn(576)
    exact, direct = torch.empty(13, 576), kernels.activation(13, 576)
    kernels.run(ops.Norm(x, weight, exact, eps=1e-5))
    kernels.run(ops.Norm(x, weight, direct, eps=1e-5))
    apart = kernels.activation(13, 576)
    kernels.run(ops.Quantize(exact, apart))  # type: ignore[arg-type]
    assert torch.equal(exact_values(kernels, direct), exact_values(kernels, apart))


@pytest.mark.parametrize("rows", [1, 19])
def test_norm_adds_to_its_output(kernels: Kernels, rows: int) -> None:
    x, weight, out = torch.randn(rows, 100), torch.randn(100), torch.randn(rows, 100)
    normed, before = torch.empty(rows, 100), out.clone()
    kernels.run(ops.Norm(x, weight, normed, eps=1e-5))
    kernels.run(ops.Norm(x, weight, out, eps=1e-5, accumulate=True))
    assert torch.equal(out, before + normed)


@pytest.mark.parametrize("rows", [1, 19])
def test_norm_of_columns_in_place(kernels: Kernels, rows: int) -> None:
    x, weight = torch.randn(rows, 300), torch.randn(96)
    before, part = x.clone(), x[:, 100:196]
    kernels.run(ops.Norm(part, weight, part, eps=1e-5))
    wanted = functional.rms_norm(before[:, 100:196].double(), (96,), weight.double(), 1e-5)
    assert close(part, wanted)
    x[:, 100:196] = before[:, 100:196]
    assert torch.equal(x, before)


def test_norm_refuses_to_add_to_quantized_output(kernels: Kernels) -> None:
    with pytest.raises(ValueError, match="cannot accumulate"):
        kernels.run(
            ops.Norm(
                torch.randn(2, 32),
                torch.ones(32),
                kernels.activation(2, 32),
                eps=1.0,
                accumulate=True,
            )
        )


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_activate(kernels: Kernels, kind: GateKind) -> None:
    x = torch.cat([torch.linspace(-90, 90, 1500), torch.randn(548)]).view(4, 512)
    out, quantized = torch.empty(4, 512), kernels.activation(4, 512)
    kernels.run(ops.Activate(x, out, kind=kind))
    assert float((out - FUNCTIONS[kind](x.double())).abs().max()) < 1e-5
    kernels.run(ops.Activate(x, quantized, kind=kind))
    apart = kernels.activation(4, 512)
    kernels.run(ops.Quantize(out, apart))  # type: ignore[arg-type]
    assert torch.equal(exact_values(kernels, quantized), exact_values(kernels, apart))


@pytest.mark.parametrize("columns", [1, 100, 1000])
def test_soft_cap(kernels: Kernels, columns: int) -> None:
    x = torch.randn(5, columns) * 60
    wanted = 30 * torch.tanh(x.double() / 30)
    kernels.run(ops.SoftCap(x, cap=30.0))
    assert float((x - wanted).abs().max()) < 2e-5


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_gate(kernels: Kernels, kind: GateKind) -> None:
    gates = torch.cat([torch.linspace(-90, 90, 1500), torch.randn(548)]).view(4, 512)
    x = torch.cat([gates, torch.randn(4, 512)], 1)
    out = torch.empty(4, 512)
    kernels.run(ops.Gate(x, out, kind=kind))
    wanted = FUNCTIONS[kind](gates.double()) * x[:, 512:]
    assert float((out - wanted).abs().max()) < 1e-5


def test_quantize(kernels: Kernels) -> None:
    x = torch.randn(11, 96) * torch.logspace(-20, 4, 11)[:, None]
    x[3] = 0
    x[4, :32] = 0
    out = kernels.activation(11, 96)
    kernels.run(ops.Quantize(x, out))  # type: ignore[arg-type]
    values = exact_values(kernels, out)
    scale = x.unflatten(1, (-1, 32)).abs().amax(-1).repeat_interleave(32, 1)
    assert bool(((values - fake_quantized(x)).abs() <= 1e-6 * scale).all())


@pytest.mark.parametrize("exact", [False, True])
def test_permute(kernels: Kernels, exact: bool) -> None:
    x = torch.randn(11, 70)
    index = torch.randint(-1, 70, (96,), dtype=torch.int32)
    index[40:] = -1  # a group of padding only
    out = kernels.activation(11, 96, torch.float32 if exact else torch.int8)
    kernels.run(ops.Permute(x, index, out))
    wanted = torch.cat([x, torch.zeros(11, 1)], 1)[:, index.long()]
    if exact:
        assert torch.equal(out, wanted)  # type: ignore[arg-type]
    else:
        apart = kernels.activation(11, 96)
        kernels.run(ops.Quantize(wanted, apart))  # type: ignore[arg-type]
        assert torch.equal(exact_values(kernels, out), exact_values(kernels, apart))


def test_permute_checks_its_index(kernels: Kernels) -> None:
    x, out = torch.randn(2, 8), torch.empty(2, 32)
    for outside in (-2, 8):
        with pytest.raises(ValueError, match=r"index: outside -1\.\.7"):
            kernels.run(ops.Permute(x, torch.full((32,), outside, dtype=torch.int32), out))


@pytest.mark.parametrize("index", [[0, 1, 2], [2, 3, 10], [10], [], list(range(11))])
def test_move_rows(kernels: Kernels, index: list[int]) -> None:
    whole = torch.randn(11, 300)
    before = whole.clone()
    rows = torch.tensor([len(index)], dtype=torch.int32)
    padded = torch.tensor(index + [99] * (11 - len(index)), dtype=torch.int32)
    kernels.run(ops.MoveRows(whole[:, :290], padded, rows=rows))
    wanted = before.clone()
    wanted[: len(index), :290] = before[index, :290]
    assert torch.equal(whole, wanted)


@pytest.mark.parametrize("index", [[1, 0, 2], [0, 1, 3], [-1, 1, 2]])
def test_rows_move_up_only(kernels: Kernels, index: list[int]) -> None:
    with pytest.raises(ValueError, match="move down"):
        kernels.run(ops.MoveRows(torch.zeros(3, 32), torch.tensor(index, dtype=torch.int32)))


def test_native_and_twin_quantize_alike(native: Kernels, twins: Kernels) -> None:
    x = torch.randn(20, 640)
    x[0, :32] = torch.arange(32) - 15.5  # ties
    values = []
    for kernels in (native, twins):
        out = kernels.activation(20, 640)
        kernels.run(ops.Quantize(x, out))  # type: ignore[arg-type]
        values.append(exact_values(kernels, out))
    assert torch.allclose(*values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("columns", [1, 15, 16, 1000])
def test_argmax(kernels: Kernels, columns: int) -> None:
    x = torch.randn(9, columns)
    x[0] = 1.0  # a tie: the first
    x[1] = -torch.inf
    out = torch.empty(9, dtype=torch.int32)
    kernels.run(ops.Argmax(x, out))
    assert out.tolist() == x.argmax(1).tolist()


def test_rows_do_not_depend_on_batch_or_threads(native: Kernels) -> None:
    x, weight = torch.randn(70, 512), torch.randn(512)

    def results(rows: torch.Tensor) -> torch.Tensor:
        normed = native.activation(len(rows), 512)
        gated = native.activation(len(rows), 256)
        native.run(ops.Norm(rows, weight, normed, eps=1e-5))
        native.run(ops.Gate(rows, gated, kind="silu"))
        return torch.cat([exact_values(native, normed), exact_values(native, gated)], 1)

    whole = results(x)
    for threads in (1, 2, 3):
        native.set_num_threads(threads)
        for first, last in [(0, 1), (9, 10), (5, 21), (0, 70)]:
            assert torch.equal(results(x[first:last].contiguous()), whole[first:last])
