"""Packed codes against numpy's own bit order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.quantization.bits import BitPlanes, pack_words, unpack_words
from tests.quantization.formats import bit_stream


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_words_are_a_stream_of_codes(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 96), dtype=np.uint8)
    words = torch.from_numpy(bit_stream(codes, bits).T.copy())
    assert torch.equal(unpack_words(words, bits), torch.from_numpy(codes.T.copy()))
    if 32 % bits == 0:
        assert torch.equal(pack_words(torch.from_numpy(codes.T.copy()), bits), words)


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 40))
def test_planes_give_back_what_they_got(bits: int, rows: int, columns: int) -> None:
    codes = torch.randint(0, 2**bits, (rows, columns), dtype=torch.uint8)
    planes = BitPlanes.pack(codes, bits)
    assert torch.equal(planes.unpack(), codes)
    index = torch.randint(0, rows, (3,))
    assert torch.equal(planes.unpack(index), codes[index])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_planes_take_no_more_than_the_bits(bits: int) -> None:
    codes = torch.zeros(16, 128, dtype=torch.uint8)
    assert BitPlanes.pack(codes, bits).nbytes == 16 * 128 * bits // 8
