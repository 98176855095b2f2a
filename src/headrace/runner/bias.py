"""Additions to single logits: each request's logit_bias, and stop tokens before min_tokens."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.types import RowStart

Indices = npt.NDArray[np.int64]
Additions = tuple[Indices, npt.NDArray[np.float32]]
"""Token ids and what to add to their logits."""


class LogitBias:
    """What to add to which logit, kept per executor row."""

    def __init__(self) -> None:
        self._bias: dict[int, Additions] = {}
        self._stop: dict[int, Additions] = {}

    def start(self, start: RowStart) -> None:
        """Take over a row; what an earlier request left there goes."""
        self._bias[start.row] = _additions(start.params.logit_bias)
        self._stop[start.row] = _additions(dict.fromkeys(start.params.stop_token_ids, -np.inf))

    def add_(self, logits: Tensor, rows: Indices, biased: Indices, unstoppable: Indices) -> None:
        """Change logits [R, V] in place: the bias at positions `biased`, no stop tokens at
        positions `unstoppable`; rows [R] are the positions' executor rows."""
        parts = [self._bias[row] for row in rows[biased].tolist()]
        parts += [self._stop[row] for row in rows[unstoppable].tolist()]
        positions = np.concatenate([biased, unstoppable])
        where = torch.from_numpy(positions.repeat([len(ids) for ids, _ in parts]))
        ids = torch.from_numpy(np.concatenate([ids for ids, _ in parts]))
        values = torch.from_numpy(np.concatenate([values for _, values in parts]))
        device = logits.device
        logits.index_put_((where.to(device), ids.to(device)), values.to(device), accumulate=True)


def _additions(by_token: dict[int, float]) -> Additions:
    return np.fromiter(by_token.keys(), np.int64), np.fromiter(by_token.values(), np.float32)
