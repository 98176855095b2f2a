"""What the C library itself says about where tensors lie."""

import ctypes

import pytest
import torch

from headrace.weights.heap import large_blocks_returned

NAMES = [
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
]
LARGE = 4 << 20


class Statistics(ctypes.Structure):
    """Of mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


def mapped_bytes() -> int:
    """Of blocks that go back to the system when they are freed."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("this C library does not say")
    mallinfo.restype = Statistics
    return int(mallinfo().hblkhd)


def growth() -> int:
    before = mapped_bytes()
    tensor = torch.empty(LARGE, dtype=torch.uint8)
    grown = mapped_bytes() - before
    assert len(tensor) == LARGE
    return grown


def test_large_tensors_go_back_while_loading_and_stay_while_serving() -> None:
    with large_blocks_returned():
        assert [growth() >= LARGE for _ in range(3)] == [True] * 3
    assert [growth() for _ in range(3)] == [0] * 3


def test_serving_begins_after_a_failed_load_as_well() -> None:
    with pytest.raises(ValueError, match="lies"), large_blocks_returned():
        raise ValueError("the checkpoint lies")
    assert growth() == 0
