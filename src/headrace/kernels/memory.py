"""Memory that costs nothing until it is used, for KV caches."""

import math

import numpy as np
import torch
from torch import Tensor


def zeroed(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose pages, on the CPU, cost memory only once they are written.

    torch.zeros writes them all; numpy takes untouched pages from the system.
    """
    if device.type != "cpu":
        return torch.zeros(sizes, dtype=dtype, device=device)
    pages = np.zeros(math.prod(sizes) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(pages).view(dtype).view(sizes)
