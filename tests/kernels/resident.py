"""How much of a tensor has memory, by the system's word."""

import ctypes
import mmap

import torch


def resident_bytes(tensor: torch.Tensor) -> int:
    """Of a tensor that begins with a page."""
    pages = (ctypes.c_ubyte * (tensor.nbytes // mmap.PAGESIZE))()
    address = ctypes.c_void_p(tensor.data_ptr())
    assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(tensor.nbytes), pages) == 0
    return sum(page & 1 for page in pages) * mmap.PAGESIZE
