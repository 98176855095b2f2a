"""What collectives need on the side of Python: memory between processes, and a way to other hosts.

Mirrors csrc/ranks.h; knows neither how memory comes to be shared nor what carries a relay's bytes.
"""

import ctypes
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class Relay:
    """Takes contributions to collectives between the memories of several hosts."""

    _Function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint32, ctypes.c_int64)

    def __init__(self, here: range, bring: Callable[[int, int], None]) -> None:
        """`here`: the ranks of this host. `bring(collective, floats)` fills the slots number
        `collective % 2` of all others, up to so many values of each, and theirs with those of
        `here`."""
        self.here = here
        self._bring = bring
        self._function = self._Function(self)

    def __call__(self, collective: int, floats: int) -> int:
        """0, or 1 when a host cannot be reached."""
        try:
            self._bring(collective, floats)
        except RuntimeError:  # torch.distributed's errors
            logger.exception("collective %d", collective)
            return 1
        return 0

    @property
    def address(self) -> int:
        """Of a C function that does the same, in any thread."""
        return ctypes.cast(self._function, ctypes.c_void_p).value or 0


@dataclass(frozen=True, slots=True)
class RankMemory:
    """What the ranks of one host that share a model use for collectives: the same memory, mapped by
    each process.

    A line of 64 bytes for every rank, then two slots for each; zero before the first collective.
    """

    rank: int
    size: int
    storage: Tensor
    """uint8."""
    relay: Relay | None = None
    """To other hosts; of one rank on each, where there are several."""

    @staticmethod
    def num_bytes(size: int, slot_floats: int) -> int:
        """Of a memory of `size` ranks that contribute up to `slot_floats` values each."""
        return size * (RANK_LINE_BYTES + 2 * _slot_bytes(slot_floats))

    @property
    def slot_bytes(self) -> int:
        return (self.storage.nbytes // self.size - RANK_LINE_BYTES) // 2

    @property
    def slots(self) -> Tensor:
        """[ranks, 2, values] float32; a collective uses the second index in turn."""
        return (
            self.storage[RANK_LINE_BYTES * self.size :].view(torch.float32).view(self.size, 2, -1)
        )

    def columns(self, total: int) -> tuple[int, int]:
        """First and behind the last of this rank's share of a matrix's columns."""
        return total * self.rank // self.size, total * (self.rank + 1) // self.size


RANK_LINE_BYTES = 64


def _slot_bytes(floats: int) -> int:
    return -(-floats * 4 // 64) * 64
