"""The Triton kernel in Triton's interpreter, or on a GPU, against plain torch."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

pytest.importorskip("triton")

from headrace.quantization import compressed
from headrace.quantization.compressed import CompressedLinear
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.on_load import ON_LOAD
from headrace.quantization.rounding import round_between, round_integers
from headrace.quantization.triton_matmul import packed_matmul, trial
from tests.devices import CPU, every_device


def whole_zero_points(matrix: torch.Tensor, bits: int) -> QuantizedMatrix:
    """As checkpoints have them; three groups, of which the last begins within a byte."""
    rounded = round_integers(matrix, bits, matrix.shape[1] // 3)
    points = torch.randint(0, 2**bits, rounded.scales.shape, dtype=torch.uint8)
    return replace(rounded, zero_points=points)


ROUNDINGS: dict[str, Callable[[torch.Tensor], QuantizedMatrix]] = {
    **{name: rule.layers for name, rule in ON_LOAD.items()},
    "2 bits": partial(round_between, bits=2, group_size=32),
    "2 bits around whole zero points": lambda matrix: whole_zero_points(matrix, 2),
    "4 bits around whole zero points": lambda matrix: whole_zero_points(matrix, 4),
    "8 bits around whole zero points": lambda matrix: whole_zero_points(matrix, 8),
    "4 bits by output": partial(round_integers, bits=4, group_size=-1),
}


@every_device
@pytest.mark.parametrize("name", ROUNDINGS)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 8, 96), (19, 70, 192)])
def test_products_are_those_of_the_dequantized_matrix(
    name: str,
    rows: int,
    outputs: int,
    inputs: int,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def counted(*arguments: torch.Tensor, **options: object) -> torch.Tensor:
        calls.append(arguments)
        return packed_matmul(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(compressed, "load_kernel", lambda device: counted)
    matrices = [ROUNDINGS[name](torch.randn(outputs, inputs)) for _ in range(2)]
    weight = CompressedLinear(matrices, device, torch.float32)
    x, residual = torch.randn(rows, inputs), torch.randn(rows, 2 * outputs)
    wanted = x @ torch.cat([matrix.dequantize() for matrix in matrices]).T + residual
    product = weight.apply(x.to(device), None, residual.to(device, copy=True))
    torch.testing.assert_close(product.cpu(), wanted, rtol=1e-4, atol=1e-4)
    assert len(calls) == 2


@every_device
def test_it_passes_its_trial(device: torch.device) -> None:
    assert trial(device) is None


@every_device
def test_it_is_for_cuda_only(device: torch.device) -> None:
    assert (compressed.load_kernel(device) is None) == (device == CPU)
