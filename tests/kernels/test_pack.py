"""GGUF's block formats, against the reference package."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize

from headrace.kernels.base import Kernels
from headrace.kernels.tensors import BLOCK_FORMATS

HALVES = {  # where a block's float16 numbers are
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
}
# Formats with scales per 16 weights are rounded to 8 bits; products of scales to float16.
TOLERANCE = {"Q2_K": 5e-3, "Q3_K": 5e-3, "Q6_K": 5e-3, "Q4_K": 1e-3, "Q5_K": 1e-3}


def random_blocks(name: str, rows: int, features: int) -> np.ndarray:
    form = BLOCK_FORMATS[name]
    random = np.random.default_rng(0)
    shape = (rows, features // form.block_weights, form.block_bytes)
    blocks = random.integers(0, 256, shape, dtype=np.uint8)
    for at in HALVES.get(name, (0,)):
        halves = random.uniform(0.001, 0.02, (*shape[:2], 1)).astype(np.float16)
        blocks[..., at : at + 2] = halves.view(np.uint8)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("widened", [False, True])
def test_blocks_become_the_reference_values(kernels: Kernels, name: str, widened: bool) -> None:
    form = BLOCK_FORMATS[name]
    blocks = random_blocks(name, 27, 512)
    wanted = torch.from_numpy(dequantize(blocks, GGMLQuantizationType[name]))
    kind, has_minimum = ("int8", True) if widened else (form.kind, form.has_minimum)
    weight = kernels.empty_weight(kind, 40, 512, has_minimum=has_minimum)
    padded = torch.zeros(27, blocks.shape[1] + 5, dtype=torch.uint8)
    padded[:, :-5] = torch.from_numpy(blocks)
    kernels.pack_blocks(weight, 3, name, padded[:, :-5])  # strided, and off the tiles of 16
    out = torch.empty(40, 512)
    kernels.embedding(torch.arange(40, dtype=torch.int32), weight, out)
    error = (out[3:30] - wanted).abs().max() / wanted.abs().max()
    assert float(error) <= TOLERANCE.get(name, 1e-6)
    assert not out[:3].any() and not out[30:].any()


def test_signed_nibbles_fit_beside_minima(kernels: Kernels) -> None:
    blocks = random_blocks("Q4_0", 16, 64)
    weight = kernels.empty_weight("int4", 16, 64, has_minimum=True)
    kernels.pack_blocks(weight, 0, "Q4_0", torch.from_numpy(blocks))
    out = torch.empty(16, 64)
    kernels.embedding(torch.arange(16, dtype=torch.int32), weight, out)
    wanted = torch.from_numpy(dequantize(blocks, GGMLQuantizationType.Q4_0))
    assert torch.allclose(out, wanted, atol=1e-7)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q8_0"])
def test_packed_takes_no_more_than_the_file(native: Kernels, name: str) -> None:
    form = BLOCK_FORMATS[name]
    weight = native.empty_weight(form.kind, 576, 576, has_minimum=form.has_minimum)
    assert weight.num_bytes <= 1.01 * 576 * 576 / 32 * form.block_bytes
