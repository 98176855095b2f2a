"""How the C library's heap treats a model that is being loaded."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of mallopt(3)."""
LOADING_BYTES = 128 << 10
"""With which glibc starts."""
SERVING_BYTES = 32 << 20
"""The most that glibc allows, and where its own adjustment ends up."""


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """While a model is loaded, memory of large tensors goes back to the system with the tensor.

    Once such a block was freed, glibc takes the next ones of its size from the heap. There, what
    stays of a layer lies between what was needed only to unpack it, and how much of such holes the
    next layer can use depends on addresses, which differ from start to start: the peak was
    anything from 1.03 to 1.13 times the weights. Afterwards the heap keeps what it has, because a
    pass needs the same blocks again and again. Other C libraries are left alone.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is None:
        yield
        return
    adjust(MMAP_THRESHOLD, LOADING_BYTES)
    try:
        yield
    finally:
        adjust(MMAP_THRESHOLD, SERVING_BYTES)
        adjust(TRIM_THRESHOLD, 2 * SERVING_BYTES)
