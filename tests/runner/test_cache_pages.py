import sys

import pytest
import torch

from headrace.kernels import TorchKernels
from headrace.kernels.memory import HUGE_PAGE_BYTES, zeroed
from headrace.runner.cache_pages import CachePages, tensors_of
from tests.kernels.resident import resident_bytes

BLOCK_BYTES = HUGE_PAGE_BYTES // 4
NUM_BLOCKS = 12


def caches(count: int) -> list[torch.Tensor]:
    sizes = (NUM_BLOCKS, BLOCK_BYTES)
    return [zeroed(sizes, torch.uint8, torch.device("cpu")) for _ in range(count)]


def rounds(pages: CachePages, num_used: int) -> int:
    count = 0
    while pages.prepare(num_used):
        count += 1
    return count


@pytest.mark.skipif(sys.platform != "linux", reason="mincore")
def test_memory_is_taken_ahead_of_the_blocks_in_use() -> None:
    tensors = caches(2)
    pages = CachePages(tensors, ahead_bytes=2 * 4 * BLOCK_BYTES)
    assert rounds(pages, num_used=0) == 2  # four blocks are a huge page
    assert [resident_bytes(tensor) for tensor in tensors] == [4 * BLOCK_BYTES] * 2
    assert rounds(pages, num_used=0) == 0
    assert rounds(pages, num_used=1) == 2
    assert [resident_bytes(tensor) for tensor in tensors] == [8 * BLOCK_BYTES] * 2


def test_no_more_than_the_cache_is_prepared_and_nothing_is_changed() -> None:
    (tensor,) = caches(1)
    content = torch.randint(0, 256, tensor.shape, dtype=torch.uint8)
    tensor.copy_(content)
    pages = CachePages([tensor], ahead_bytes=100 * BLOCK_BYTES)
    assert rounds(pages, num_used=5) == 3
    assert torch.equal(tensor, content)


def test_all_tensors_of_a_cache_begin_with_its_blocks() -> None:
    kernels = TorchKernels("test")
    for dtype, count in ((torch.bfloat16, 2), (torch.int8, 4)):
        tensors = tensors_of([kernels.empty_cache(NUM_BLOCKS, 3, 64, dtype)])
        assert [len(tensor) for tensor in tensors] == [NUM_BLOCKS] * count
        assert rounds(CachePages(tensors, ahead_bytes=1 << 30), num_used=0) > 0
