"""What the C library itself says about where tensors lie. A heap with room takes blocks of any
size, so it is asked in processes whose heap has none."""

import ctypes
from typing import Any

import pytest
import torch

from headrace.weights.heap import large_blocks_returned
from tests.fresh_process import in_a_fresh_process

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
LARGE = 24 << 20


class Statistics(ctypes.Structure):
    """Of mallinfo2(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


mallinfo: Any = getattr(ctypes.CDLL(None), "mallinfo2", None)
pytestmark = pytest.mark.skipif(mallinfo is None, reason="this C library does not say")


def mapped_bytes() -> int:
    """Of blocks that go back to the system when they are freed."""
    mallinfo.restype = Statistics
    return int(mallinfo().hblkhd)


def growth() -> int:
    before = mapped_bytes()
    tensor = torch.empty(LARGE, dtype=torch.uint8)
    grown = mapped_bytes() - before
    assert len(tensor) == LARGE
    return grown


def load() -> tuple[list[int], list[int]]:
    """Growths while loading and afterwards."""
    with large_blocks_returned():
        loading = [growth() for _ in range(3)]
    return loading, [growth() for _ in range(3)]


def fail_to_load() -> int:
    """The growth afterwards."""
    with pytest.raises(ValueError, match="lies"), large_blocks_returned():
        raise ValueError("the checkpoint lies")
    return growth()


def test_large_tensors_go_back_while_loading_and_stay_while_serving() -> None:
    loading, serving = in_a_fresh_process(load)
    assert all(grown >= LARGE for grown in loading)
    assert serving == [0, 0, 0]


def test_serving_begins_after_a_failed_load_as_well() -> None:
    assert in_a_fresh_process(fail_to_load) == 0
