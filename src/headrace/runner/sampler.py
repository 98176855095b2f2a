"""From logits to tokens for the whole batch at once. The common path only: one call of the kernels
draws all rows' tokens, and each further feature runs on just the rows that ask for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.kernels import Kernels
from headrace.runner.bias import LogitBias
from headrace.runner.logits import allow_
from headrace.runner.logprobs import SampledLogprobs, TopLogprobs
from headrace.runner.masks import Masks
from headrace.runner.parameters import RECORD, Feature, Table, penalties, record
from headrace.runner.penalties import TokenCounts, penalize_
from headrace.runner.sample_positions import SamplePositions
from headrace.types import RowOutput, RowStart

Indices = npt.NDArray[np.int64]

CHANGES = Feature.PENALTIES | Feature.BIAS | Feature.MINIMUM


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

    def __init__(self, max_rows: int, kernels: Kernels) -> None:
        self.kernels = kernels
        self._table = np.zeros(max_rows, RECORD)
        self._counts: dict[int, TokenCounts] = {}
        self._bias = LogitBias()

    def start(self, start: RowStart) -> None:
        """A request enters a row."""
        self._table[start.row] = record(start.params, start.num_prompt_tokens)
        self._bias.start(start)
        self._counts.pop(start.row, None)
        if self._table["features"][start.row] & Feature.PENALTIES:
            prompt_length = start.num_prompt_tokens
            self._counts[start.row] = TokenCounts(start.token_ids[:prompt_length])
            self._counts[start.row].extend(start.token_ids[prompt_length:])

    def sample(self, logits: Tensor, at: SamplePositions, masks: Masks | None = None) -> Samples:
        """Choose one token per row of logits [R, V] float32, which may be changed in place."""
        records = self._table[at.rows]
        features = int(np.bitwise_or.reduce(records["features"]))
        will_change = bool(features & CHANGES) or masks is not None
        logprobs = None
        if features & Feature.LOGPROBS:
            # Of the model's own distribution, so before anything changes the logits.
            logprobs = self._logprobs(logits, records, will_change=will_change)
        if will_change:
            self._change_(logits, at, records, masks)
        token_ids, largest = self._choose(logits, at, records)
        return Samples(
            token_ids,
            np.isfinite(largest),
            logprobs.of(token_ids) if logprobs else {},
            logprobs.top(records["num_top_logprobs"][logprobs.index]) if logprobs else {},
        )

    def accept(self, rows: Sequence[int], outputs: Sequence[RowOutput]) -> None:
        """Count what the rows' requests have put out."""
        if self._counts:
            for row, output in zip(rows, outputs, strict=True):
                if row in self._counts:
                    self._counts[row].extend(output.token_ids)

    def _logprobs(self, logits: Tensor, records: Table, *, will_change: bool) -> SampledLogprobs:
        reported = np.flatnonzero(records["features"] & Feature.LOGPROBS)
        num_leading = int(records["num_top_logprobs"][reported].max())
        return SampledLogprobs.take(
            self.kernels, logits, reported, num_leading, will_change=will_change
        )

    def _choose(
        self, logits: Tensor, at: SamplePositions, records: Table
    ) -> tuple[Indices, npt.NDArray[np.float32]]:
        draws = np.ascontiguousarray(records["draw"])
        draws["position"] = at.positions
        token_ids = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        largest = torch.empty(len(logits), device=logits.device)
        self.kernels.sample(logits, draws, token_ids, largest)
        return token_ids.cpu().numpy(), largest.cpu().numpy()

    def _change_(
        self, logits: Tensor, at: SamplePositions, records: Table, masks: Masks | None
    ) -> None:
        """Penalties, then bias, then what is forbidden."""
        penalized = np.flatnonzero(records["features"] & Feature.PENALTIES)
        if len(penalized):
            counts = [self._counts_at(at, index) for index in penalized.tolist()]
            penalize_(logits, penalized, counts, penalties(records[penalized], logits.device))
        biased = np.flatnonzero(records["features"] & Feature.BIAS)
        unstoppable = np.flatnonzero(
            (records["features"] & Feature.MINIMUM != 0) & (at.positions < records["stop_from"])
        )
        if len(biased) or len(unstoppable):
            self._bias.add_(logits, at.rows, biased, unstoppable)
        if masks is not None:
            allow_(logits, masks)

    def _counts_at(self, at: SamplePositions, index: int) -> TokenCounts:
        counts = self._counts[int(at.rows[index])]
        return counts.with_drafts(at.drafts[index]) if index in at.drafts else counts
