"""The sampling parameters of all executor rows as one table on the host, a record per row."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.runner.penalties import Penalties
from headrace.runner.truncation import Truncation
from headrace.types import SamplingParams

RECORD = np.dtype(
    [
        ("temperature", np.float32),  # 0: greedy
        ("seed", np.uint64),
        ("top_k", np.int64),
        ("top_p", np.float32),
        ("typical_p", np.float32),
        ("min_p", np.float32),
        ("repetition_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("num_top_logprobs", np.int64),  # -1: no log-probabilities at all
        ("stop_from", np.int64),  # tokens at positions before this one must not stop (min_tokens)
        ("has_bias", np.bool_),
    ]
)
SMALLEST_TEMPERATURE = float(np.finfo(np.float32).tiny)


def record(params: SamplingParams, num_prompt_tokens: int) -> tuple[float | int | bool, ...]:
    """One row of the table."""
    top = params.num_top_logprobs
    return (
        # A positive temperature must not become 0 in float32, which would mean greedy.
        max(params.temperature, SMALLEST_TEMPERATURE) if params.temperature > 0 else 0.0,
        params.seed,
        params.top_k,
        params.top_p,
        params.typical_p,
        params.min_p,
        params.repetition_penalty,
        params.frequency_penalty,
        params.presence_penalty,
        -1 if top is None else top,
        num_prompt_tokens + params.min_tokens if params.stop_token_ids else 0,
        bool(params.logit_bias),
    )


class RowParameters:
    """The records of R sampled positions, and which of them ask for what."""

    def __init__(self, records: npt.NDArray[np.void], device: torch.device) -> None:
        self._records = records
        self._device = device

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._records[name]

    def column(self, name: str, index: npt.NDArray[np.int64]) -> Tensor:
        """[len(index), 1] on the sampling device."""
        return torch.from_numpy(self._records[name][index, None]).to(self._device)

    def truncation(self, index: npt.NDArray[np.int64]) -> Truncation:
        names = ("top_k", "top_p", "typical_p", "min_p")
        return Truncation(*(self.column(name, index) for name in names))

    def penalties(self, index: npt.NDArray[np.int64]) -> Penalties:
        names = ("repetition_penalty", "frequency_penalty", "presence_penalty")
        return Penalties(*(self.column(name, index) for name in names))

    @property
    def is_sampled(self) -> npt.NDArray[np.bool_]:
        return self._records["temperature"] > 0

    @property
    def is_truncated(self) -> npt.NDArray[np.bool_]:
        """By sorting: min_p alone needs none."""
        records = self._records
        return (records["top_k"] > 0) | (records["top_p"] < 1) | (records["typical_p"] < 1)

    @property
    def is_penalized(self) -> npt.NDArray[np.bool_]:
        records = self._records
        return (
            (records["repetition_penalty"] != 1)
            | (records["frequency_penalty"] != 0)
            | (records["presence_penalty"] != 0)
        )
