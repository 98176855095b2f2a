"""Memory that costs nothing until it is used, for KV caches."""

import math

import numpy as np
import torch
from torch import Tensor

LINE_BYTES = 64
"""Of the processor's cache: what straddles two lines is read far more slowly."""


def zeroed(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that begin with a cache line and whose pages, on the CPU, cost memory only once they
    are written.

    torch.zeros writes them all; numpy takes untouched pages from the system.
    """
    if device.type != "cpu":
        return torch.zeros(sizes, dtype=dtype, device=device)
    num_bytes = math.prod(sizes) * dtype.itemsize
    pages = np.zeros(num_bytes + LINE_BYTES, dtype=np.uint8)
    first = -pages.ctypes.data % LINE_BYTES
    return torch.from_numpy(pages[first : first + num_bytes]).view(dtype).view(sizes)
