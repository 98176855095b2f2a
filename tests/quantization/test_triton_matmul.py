"""The Triton kernel in Triton's interpreter against plain torch."""

import os
from collections.abc import Callable
from functools import partial

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from headrace.quantization import compressed
from headrace.quantization.compressed import CompressedLinear
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.on_load import ON_LOAD
from headrace.quantization.rounding import round_between, round_integers
from headrace.quantization.triton_matmul import packed_matmul, trial

CPU = torch.device("cpu")
ROUNDINGS: dict[str, Callable[[torch.Tensor], QuantizedMatrix]] = {
    **{name: rule.layers for name, rule in ON_LOAD.items()},
    "2 bits": partial(round_between, bits=2, group_size=32),
    "4 bits by output": partial(round_integers, bits=4, group_size=-1),
}


@pytest.mark.parametrize("name", ROUNDINGS)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 8, 64), (19, 70, 192)])
def test_products_are_those_of_the_dequantized_matrix(
    name: str, rows: int, outputs: int, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*arguments: torch.Tensor, **options: object) -> torch.Tensor:
        calls.append(arguments)
        return packed_matmul(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(compressed, "load_kernel", lambda device: counted)
    matrices = [ROUNDINGS[name](torch.randn(outputs, inputs)) for _ in range(2)]
    weight = CompressedLinear(matrices, CPU, torch.float32)
    x, residual = torch.randn(rows, inputs), torch.randn(rows, 2 * outputs)
    wanted = x @ torch.cat([matrix.dequantize() for matrix in matrices]).T + residual
    torch.testing.assert_close(
        weight.apply(x, None, residual.clone()), wanted, rtol=1e-4, atol=1e-4
    )
    assert len(calls) == 2


def test_it_passes_its_trial_and_is_for_cuda_only() -> None:
    assert trial(CPU) is None
    assert compressed.load_kernel(CPU) is None
