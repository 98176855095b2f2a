"""GGUF's block formats, against the reference package."""

import pytest
import torch
from gguf import GGMLQuantizationType, dequantize

from headrace.kernels import ops
from headrace.kernels.base import Kernels
from headrace.kernels.tensors import BLOCK_FORMATS, PackedWeight
from tests.kernels.samples import random_blocks

TOLERANCE = 1e-6


def own_weight(
    kernels: Kernels, name: str, out: int, in_: int, group_size: int = 256
) -> PackedWeight:
    """Room for rows of this format alone."""
    form = BLOCK_FORMATS[name]
    size = min(group_size, form.block_weights)
    return kernels.empty_weight(form.kind, out, in_, group_size=size, scaling=form.scaling)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_blocks_become_the_reference_values(kernels: Kernels, name: str) -> None:
    blocks = random_blocks(name, 27, 512)
    wanted = torch.from_numpy(dequantize(blocks, GGMLQuantizationType[name]))
    weight = own_weight(kernels, name, 40, 512)
    padded = torch.zeros(27, blocks.shape[1] + 5, dtype=torch.uint8)
    padded[:, :-5] = torch.from_numpy(blocks)
    kernels.pack_blocks(weight, 3, name, padded[:, :-5])  # strided, and off the tiles of 16
    out = torch.empty(40, 512)
    kernels.run(ops.Embedding(torch.arange(40, dtype=torch.int32), weight, out))
    error = (out[3:30] - wanted).abs().max() / wanted.abs().max()
    assert float(error) <= TOLERANCE
    assert not out[:3].any() and not out[30:].any()


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
    kernels.run(ops.Embedding(torch.arange(20, dtype=torch.int32), weight, out))
    wanted = torch.from_numpy(dequantize(blocks, GGMLQuantizationType[name]))[:, first:stop]
    error = (out - wanted).abs().max() / wanted.abs().max()
    assert float(error) <= TOLERANCE


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_packed_takes_what_the_file_takes(native: Kernels, name: str) -> None:
    form = BLOCK_FORMATS[name]
    weight = own_weight(native, name, 576, 768)
    assert weight.num_bytes <= 1.05 * 576 * 768 / form.block_weights * form.block_bytes
