"""Memory of caches and weights: it costs nothing until it is used, and comes in huge pages where
the system has them, because most of the time of reading a page of 4 KiB goes into finding it."""

import math
import mmap

import torch
from torch import Tensor

LINE_BYTES = 64
"""Of the processor's cache: what straddles two lines is read far more slowly."""
HUGE_PAGE_BYTES = 2 << 20
ARENA_BYTES = 64 << 20


def zeroed(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that begin with a cache line and whose pages, on the CPU, cost memory only once they
    are written.

    torch.zeros writes them all; here untouched pages come from the system.
    """
    if device.type != "cpu":
        return torch.zeros(sizes, dtype=dtype, device=device)
    return _pages(math.prod(sizes) * dtype.itemsize).view(dtype).view(sizes)


class Arena:
    """Zeros for many tensors, one behind the other, so that small ones share huge pages, too.

    Memory is given back when the last tensor of a mapping is gone.
    """

    def __init__(self) -> None:
        self._rest = torch.empty(0, dtype=torch.uint8)

    def zeroed(self, num_bytes: int) -> Tensor:
        """[num_bytes] uint8 that begin with a cache line."""
        whole = -(-num_bytes // LINE_BYTES) * LINE_BYTES
        if whole >= ARENA_BYTES:
            return _pages(num_bytes)
        if whole > len(self._rest):
            self._rest = _pages(ARENA_BYTES)
        taken, self._rest = self._rest[:num_bytes], self._rest[whole:]
        return taken


def _pages(num_bytes: int) -> Tensor:
    """[num_bytes] uint8, zero, from the begin of a huge page.

    The last bytes, which fill none, lie in small pages: a huge one would take memory behind them.
    """
    length = num_bytes + HUGE_PAGE_BYTES
    has_huge_pages = hasattr(mmap, "MADV_HUGEPAGE")
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if has_huge_pages else {}
    mapped = mmap.mmap(-1, length, **flags)
    pages = torch.frombuffer(mapped, dtype=torch.uint8)
    first = -pages.data_ptr() % HUGE_PAGE_BYTES
    whole = num_bytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    if has_huge_pages and whole:
        mapped.madvise(mmap.MADV_HUGEPAGE, 0, first + whole)
    return pages[first : first + num_bytes]
