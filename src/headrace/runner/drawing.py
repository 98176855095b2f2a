"""Tokens drawn from the first rows of a buffer of logits, within a recorded program."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.kernels import DRAW, Kernels, Program, ops
from headrace.kernels.tensors import Draws

Indices = npt.NDArray[np.int64]
Choices = tuple[Indices, npt.NDArray[np.float32]]
"""Tokens [R], and the rows' largest logits [R]."""


class Drawing:
    """Recorded over logits [C, V]: for any number of their rows it is one call, without any into
    torch. Programs that compute the logits can draw too (`record`), once it is known how."""

    def __init__(self, kernels: Kernels, logits: Tensor) -> None:
        most = logits.shape[0]
        self.logits = logits
        self._kernels = kernels
        self._draws = np.zeros(most, DRAW)
        self._count = torch.zeros(1, dtype=torch.int32)
        self._num_rows = self._count.numpy().data
        token_ids = torch.empty(most, dtype=torch.int64, device=logits.device)
        largest = torch.empty(most, device=logits.device)
        self._results = token_ids, largest
        self._arrays = None if logits.is_cuda else (token_ids.numpy(), largest.numpy())
        with kernels.record() as program:
            self.record()
        self._program: Program = program

    def record(self) -> None:
        """Make drawing part of the program that is being recorded."""
        token_ids, largest = self._results
        self._kernels.run(
            ops.Sample(self.logits, self._draws, token_ids, largest, rows=self._count)
        )

    @property
    def capacity(self) -> int:
        """Most rows."""
        return len(self._draws)

    def place(self, draws: Draws, positions: Indices) -> None:
        """The next program shall draw from the first R rows by `draws` [R] at `positions` [R]."""
        num_rows = self._num_rows[0] = len(draws)
        rows = self._draws[:num_rows]
        rows[:] = draws
        rows["position"] = positions

    def clear(self) -> None:
        """The next programs shall draw nothing."""
        self._num_rows[0] = 0

    def take(self) -> Choices | None:
        """What a program has drawn since `place`; None if nothing was to be drawn."""
        return self._taken() if self._num_rows[0] else None

    def run(self) -> Choices:
        """Draw from the logits as they are now."""
        self._program.run()
        return self._taken()

    def _taken(self) -> Choices:
        num_rows = self._num_rows[0]
        self.clear()
        token_ids, largest = self._arrays or (result.cpu().numpy() for result in self._results)
        return token_ids[:num_rows].copy(), largest[:num_rows]
