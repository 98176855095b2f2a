"""A file in memory of which only those pages exist that somebody reads, and only while they do."""

import mmap
from pathlib import Path

import torch


class MappedFile:
    """A file as bytes. Raises OSError or ValueError when it cannot be mapped."""

    def __init__(self, path: Path) -> None:
        # Copy on write, since torch has no read-only tensors; nobody writes.
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        """[size] uint8. What was written to it would be lost with `release`."""

    def release(self) -> None:
        """Give back all pages that were read; whoever reads again gets them again.

        A loader that copies tensor by tensor would else end with the model in memory twice.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
