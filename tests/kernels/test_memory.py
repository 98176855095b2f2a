import gc
import mmap
import sys
import weakref

import pytest
import torch

from headrace.kernels import memory
from headrace.kernels.memory import ARENA_BYTES, HUGE_PAGE_BYTES, LINE_BYTES, Arena, zeroed
from tests.kernels.resident import resident_bytes

CPU = torch.device("cpu")


def test_zeroed_has_shape_and_dtype_and_begins_with_a_line() -> None:
    tensor = zeroed((3, 5), torch.float32, CPU)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.zeros(3, 5))
    assert tensor.data_ptr() % LINE_BYTES == 0


@pytest.mark.skipif(sys.platform != "linux", reason="mincore")
def test_memory_is_taken_by_use_and_not_beyond_the_end() -> None:
    size = 2 * HUGE_PAGE_BYTES + mmap.PAGESIZE
    tensor = zeroed((size,), torch.uint8, CPU)
    assert resident_bytes(tensor) == 0
    tensor.fill_(1)
    mapping = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    assert resident_bytes(mapping) == size


def test_tensors_of_an_arena_follow_each_other_without_overlap() -> None:
    arena = Arena()
    first, second, third = (arena.zeroed(size) for size in (100, 64, 1))
    assert second.data_ptr() == first.data_ptr() + 128
    assert third.data_ptr() == second.data_ptr() + 64
    first.fill_(1)
    third.fill_(3)
    assert not second.any()


def test_what_no_longer_fits_begins_another_mapping() -> None:
    arena = Arena()
    small, large, next_small = (arena.zeroed(size) for size in (100, ARENA_BYTES - 64, 100))
    for tensor, value in ((small, 1), (large, 2), (next_small, 3)):
        tensor.fill_(value)
    assert (small == 1).all() and (large == 2).all() and (next_small == 3).all()
    assert arena.zeroed(2 * ARENA_BYTES).shape == (2 * ARENA_BYTES,)


def test_a_mapping_is_given_back_with_its_last_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    mappings = []
    mapped = memory._pages

    def pages(num_bytes: int) -> torch.Tensor:
        result = mapped(num_bytes)
        mappings.append(weakref.ref(result.untyped_storage()))
        return result

    monkeypatch.setattr(memory, "_pages", pages)
    arena = Arena()
    first, second = arena.zeroed(64), arena.zeroed(64)
    del arena, first
    gc.collect()
    assert mappings[0]() is not None
    del second
    gc.collect()
    assert mappings[0]() is None
