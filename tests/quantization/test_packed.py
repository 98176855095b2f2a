"""Weights in the kernels' layout against the gguf package's unpacking, fused and alone."""

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.checkpoint.ggml import GGMLType
from headrace.kernels import Kernels, TorchKernels
from headrace.kernels import load as load_kernels
from headrace.quantization.packed import PackedLinear, pack_blocks, pack_floats
from headrace.weights.base import RawTensor

KERNELS = {"torch": TorchKernels("test"), "best": load_kernels()}


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return KERNELS[request.param]


def blocks(name: str, rows: int, columns: int, seed: int) -> tuple[RawTensor, Tensor]:
    """A random matrix in a block format, and what it stands for."""
    values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    stored = gguf.quants.quantize(values, kind)
    exact = torch.from_numpy(gguf.quants.dequantize(stored, kind))
    return RawTensor(GGMLType[name], torch.from_numpy(stored), (rows, columns)), exact


@pytest.mark.parametrize("names", [["Q4_1"], ["Q8_0", "Q8_0"], ["Q5_1", "Q5_1", "Q5_1"]])
def test_fused_blocks_are_their_values(kernels: Kernels, names: list[str]) -> None:
    parts = [blocks(name, 24 + 8 * i, 64, i) for i, name in enumerate(names)]
    weight = pack_blocks(kernels, [part for part, _ in parts], exact=True)
    expected = torch.cat([exact for _, exact in parts])
    x = torch.randn(5, 64)
    torch.testing.assert_close(weight.apply(x, None, None), x @ expected.T, rtol=1e-3, atol=2e-2)
    ids = torch.tensor([3, 0, 20])
    torch.testing.assert_close(weight.lookup(ids), expected[ids], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("exact", [True, False])
def test_bias_and_residual_are_added(kernels: Kernels, exact: bool) -> None:
    part, values = blocks("Q8_0", 16, 96, 7)
    weight = pack_blocks(kernels, [part], exact=exact)
    assert weight.input_dtype == (torch.float32 if exact else torch.int8)
    x, bias, residual = torch.randn(3, 96), torch.randn(16), torch.randn(3, 16)
    expected = x @ values.T + bias + residual
    actual = weight.apply(x, bias, residual.clone())
    error = (actual - expected).norm() / expected.norm()
    assert error < (1e-3 if exact else 2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_floats_keep_their_width(kernels: Kernels, dtype: torch.dtype) -> None:
    parts = [torch.randn(10, 48).to(dtype), torch.randn(6, 48).to(dtype)]
    weight = pack_floats(kernels, parts, None, exact=False)
    assert isinstance(weight, PackedLinear) and weight.input_dtype == torch.float32
    assert weight.nbytes == 16 * 48 * dtype.itemsize
    x = torch.randn(4, 48)
    expected = x @ torch.cat(parts).float().T
    torch.testing.assert_close(weight.apply(x, None, None), expected, rtol=1e-4, atol=1e-4)


def test_blocks_take_no_more_memory_than_in_the_file() -> None:
    part, _ = blocks("Q4_1", 64, 256, 1)
    weight = pack_blocks(load_kernels(), [part], exact=False)
    assert weight.nbytes <= 1.1 * part.data.nbytes
