"""Memory for blocks of the KV cache before they are handed out.

A cache's pages cost nothing until they are first written, which is expensive: the system clears
each, and under virtual machines the host may have to find memory for it first. So the blocks that
come next are written while there is nothing else to do. Knows no requests.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, uint8

from headrace.kernels import LayerCache
from headrace.kernels.memory import HUGE_PAGE_BYTES

PAGE_BYTES = 4096
AHEAD_BYTES = 1 << 30
"""Of blocks that have memory and have never been handed out."""


def tensors_of(caches: Sequence[LayerCache]) -> list[Tensor]:
    """All tensors of a model's cache; each begins with its number of blocks."""
    parts = [(each.keys, each.values, each.key_scales, each.value_scales) for each in caches]
    return [tensor for layer in parts for tensor in layer if tensor is not None and tensor.numel()]


class CachePages:
    """The pages of a cache whose blocks are handed out in order of their ids."""

    def __init__(self, tensors: Sequence[Tensor], ahead_bytes: int = AHEAD_BYTES) -> None:
        """`tensors`: [num_blocks, ...] each, contiguous, in the CPU's memory."""
        self._blocks = [each.view(uint8).flatten(1).numpy() for each in tensors]
        bytes_per_block = sum(blocks.shape[1] for blocks in self._blocks)
        self._num_ahead = ahead_bytes // bytes_per_block
        self._step = max(1, HUGE_PAGE_BYTES // max(blocks.shape[1] for blocks in self._blocks))
        self._num_blocks = len(self._blocks[0])
        self._num_ready = 0
        """Blocks that have memory in all tensors."""
        self._next = 0
        """The tensor whose turn it is."""

    def prepare(self, num_used: int) -> bool:
        """Write, and leave as they are, pages of one tensor: up to a huge page. False when the
        first `num_used` blocks and enough behind them have their memory."""
        if self._num_ready >= min(num_used + self._num_ahead, self._num_blocks):
            return False
        blocks = self._blocks[self._next][self._num_ready : self._num_ready + self._step]
        begins = blocks.reshape(-1)[::PAGE_BYTES]
        np.bitwise_or(begins, 0, out=begins)
        self._next = (self._next + 1) % len(self._blocks)
        if self._next == 0:
            self._num_ready += self._step
        return True
