"""GGUF's block formats, against the reference package."""

import pytest
import torch
from gguf import GGMLQuantizationType, dequantize

from headrace.kernels.base import Kernels
from headrace.kernels.tensors import BLOCK_FORMATS, PackedWeight
from tests.kernels.samples import random_blocks

# Formats with scales per 16 weights are rounded to 8 bits; products of scales, where they are kept
# as minima, to float16.
TOLERANCE = {"Q2_K": 5e-3, "Q3_K": 5e-3, "Q6_K": 5e-3}
WIDENED_TOLERANCE = TOLERANCE | {"Q4_K": 1e-3, "Q5_K": 1e-3}


def own_weight(
    kernels: Kernels, name: str, out: int, in_: int, group_size: int = 256
) -> PackedWeight:
    """Room for rows of this format alone."""
    form = BLOCK_FORMATS[name]
    size = group_size if form.scaling == "super_block" else 32
    return kernels.empty_weight(form.kind, out, in_, group_size=size, scaling=form.scaling)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("widened", [False, True])
def test_blocks_become_the_reference_values(kernels: Kernels, name: str, widened: bool) -> None:
    blocks = random_blocks(name, 27, 512)
    wanted = torch.from_numpy(dequantize(blocks, GGMLQuantizationType[name]))
    if widened:
        weight = kernels.empty_weight("int8", 40, 512, scaling="minimum")
    else:
        weight = own_weight(kernels, name, 40, 512)
    padded = torch.zeros(27, blocks.shape[1] + 5, dtype=torch.uint8)
    padded[:, :-5] = torch.from_numpy(blocks)
    kernels.pack_blocks(weight, 3, name, padded[:, :-5])  # strided, and off the tiles of 16
    out = torch.empty(40, 512)
    kernels.embedding(torch.arange(40, dtype=torch.int32), weight, out)
    error = (out[3:30] - wanted).abs().max() / wanted.abs().max()
    tolerance = WIDENED_TOLERANCE if widened else TOLERANCE
    assert float(error) <= tolerance.get(name, 1e-6)
    assert not out[:3].any() and not out[30:].any()


def test_signed_nibbles_fit_beside_minima(kernels: Kernels) -> None:
    blocks = random_blocks("Q4_0", 16, 64)
    weight = kernels.empty_weight("int4", 16, 64, scaling="minimum")
    kernels.pack_blocks(weight, 0, "Q4_0", torch.from_numpy(blocks))
    out = torch.empty(16, 64)
    kernels.embedding(torch.arange(16, dtype=torch.int32), weight, out)
    wanted = torch.from_numpy(dequantize(blocks, GGMLQuantizationType.Q4_0))
    assert torch.allclose(out, wanted, atol=1e-7)


@pytest.mark.parametrize(
    "name", [name for name, f in BLOCK_FORMATS.items() if f.block_weights > 32]
)
@pytest.mark.parametrize(
    ("first", "stop", "group_size"), [(128, 640, 128), (96, 224, 32), (0, 64, 64)]
)
def test_a_row_may_begin_and_end_within_blocks(
    kernels: Kernels, name: str, first: int, stop: int, group_size: int
) -> None:
    blocks = random_blocks(name, 20, -(-stop // 256) * 256)
    weight = own_weight(kernels, name, 20, stop - first, group_size)
    kernels.pack_blocks(weight, 0, name, torch.from_numpy(blocks), first=first)
    out = torch.empty(20, stop - first)
    kernels.embedding(torch.arange(20, dtype=torch.int32), weight, out)
    wanted = torch.from_numpy(dequantize(blocks, GGMLQuantizationType[name]))[:, first:stop]
    error = (out - wanted).abs().max() / wanted.abs().max()
    assert float(error) <= TOLERANCE.get(name, 1e-6)


@pytest.mark.parametrize(
    ("name", "limit"), [("Q4_0", 1.01), ("Q4_1", 1.01), ("Q8_0", 1.01), ("Q4_K", 1.03)]
)
def test_packed_takes_no_more_than_the_file(native: Kernels, name: str, limit: float) -> None:
    form = BLOCK_FORMATS[name]
    weight = own_weight(native, name, 576, 768)
    assert weight.num_bytes <= limit * 576 * 768 / form.block_weights * form.block_bytes
