"""From logits to tokens for the whole batch at once. The common path only: a step of greedy rows
without penalties is one argmax, and each feature runs on just the rows that ask for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.runner.bias import LogitBias
from headrace.runner.choice import best, choose_from_all, choose_from_truncated
from headrace.runner.logits import allow_
from headrace.runner.logprobs import SampledLogprobs, TopLogprobs
from headrace.runner.masks import Masks
from headrace.runner.parameters import RECORD, RowParameters, record
from headrace.runner.penalties import TokenCounts, penalize_
from headrace.runner.random import draw_keys
from headrace.runner.sample_positions import SamplePositions
from headrace.types import RowOutput, RowStart

Indices = npt.NDArray[np.int64]

ELEMENTS_PER_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Logits drawn from at once: on the CPU what stays in cache, elsewhere a bound on memory."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What was chosen at each of the R sampled positions of a step."""

    token_ids: Indices
    is_valid: npt.NDArray[np.bool_]
    """False where there is nothing to choose from: the logits hold NaN or nothing finite."""
    logprobs: dict[int, float]
    """By index into R, for the rows that asked."""
    top_logprobs: dict[int, TopLogprobs]


class Sampler:
    """Chooses tokens, and keeps per executor row what that needs."""

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self._device = device
        self._table = np.zeros(max_rows, RECORD)
        self._counts: dict[int, TokenCounts] = {}
        self._bias = LogitBias()

    def start(self, start: RowStart) -> None:
        """A request enters a row."""
        self._table[start.row] = record(start.params, start.num_prompt_tokens)
        self._bias.start(start)
        self._counts.pop(start.row, None)
        if RowParameters(self._table[[start.row]], self._device).is_penalized.any():
            prompt_length = start.num_prompt_tokens
            self._counts[start.row] = TokenCounts(start.token_ids[:prompt_length])
            self._counts[start.row].extend(start.token_ids[prompt_length:])

    def sample(self, logits: Tensor, at: SamplePositions, masks: Masks | None = None) -> Samples:
        """Choose one token per row of logits [R, V] float32, which are changed in place."""
        parameters = RowParameters(self._table[at.rows], self._device)
        reported = np.flatnonzero(parameters["num_top_logprobs"] >= 0)
        # Of the model's own distribution, so before anything changes the logits.
        logprobs = SampledLogprobs.take(logits, reported) if len(reported) else None
        self._adjust_(logits, at, parameters)
        if masks is not None:
            allow_(logits, masks)
        best_logits, token_ids = best(logits)
        if parameters.is_sampled.any():
            _draw_(token_ids, logits, best_logits, at, parameters)
        chosen = token_ids.cpu().numpy()
        return Samples(
            chosen,
            best_logits.isfinite().cpu().numpy(),
            logprobs.of(chosen) if logprobs else {},
            logprobs.top(parameters["num_top_logprobs"][reported]) if logprobs else {},
        )

    def accept(self, rows: Sequence[int], outputs: Sequence[RowOutput]) -> None:
        """Count what the rows' requests have put out."""
        if self._counts:
            for row, output in zip(rows, outputs, strict=True):
                if row in self._counts:
                    self._counts[row].extend(output.token_ids)

    def _counts_at(self, at: SamplePositions, index: int) -> TokenCounts:
        counts = self._counts[int(at.rows[index])]
        return counts.with_drafts(at.drafts[index]) if index in at.drafts else counts

    def _adjust_(self, logits: Tensor, at: SamplePositions, parameters: RowParameters) -> None:
        """Penalties, then bias."""
        penalized = np.flatnonzero(parameters.is_penalized)
        if len(penalized):
            counts = [self._counts_at(at, index) for index in penalized.tolist()]
            penalize_(logits, penalized, counts, parameters.penalties(penalized))
        biased = np.flatnonzero(parameters["has_bias"])
        unstoppable = np.flatnonzero(at.positions < parameters["stop_from"])
        if len(biased) or len(unstoppable):
            self._bias.add_(logits, at.rows, biased, unstoppable)


def _draw_(
    token_ids: Tensor, logits: Tensor, best_logits: Tensor, at: SamplePositions,
    parameters: RowParameters,
) -> None:  # fmt: skip
    """Replace the greedy choice in token_ids [R] where the temperature is not 0."""
    keys = draw_keys(parameters["seed"], at.positions, logits.device)
    sampled, truncated = parameters.is_sampled, parameters.is_truncated
    for is_chosen, choose in (
        (sampled & ~truncated, choose_from_all),
        (sampled & truncated, choose_from_truncated),
    ):
        for index in _blocks(np.flatnonzero(is_chosen), logits):
            rows = torch.from_numpy(index).to(logits.device)
            scores = logits.index_select(0, rows).sub_(best_logits[rows, None])
            scores.div_(parameters.column("temperature", index))
            token_ids[rows] = choose(scores, parameters.truncation(index), keys.select(rows))


def _blocks(index: Indices, logits: Tensor) -> Iterator[Indices]:
    """Cut an index of rows so that intermediate results stay small."""
    step = max(1, ELEMENTS_PER_BLOCK[logits.device.type] // logits.shape[1])
    return (index[start : start + step] for start in range(0, len(index), step))
