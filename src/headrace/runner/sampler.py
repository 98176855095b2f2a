"""From logits to tokens for the whole batch at once. The common path only: one call of the kernels
draws all rows' tokens, and each further feature runs on just the rows that ask for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from headrace.kernels import DRAW, Kernels, ops
from headrace.runner.bias import LogitBias
from headrace.runner.drawing import Choices, Drawing, Indices
from headrace.runner.logprobs import SampledLogprobs, TopLogprobs
from headrace.runner.masks import Masks
from headrace.runner.parameters import RECORD, Feature, draw, features, penalties, record
from headrace.runner.penalties import TokenCounts, penalize_
from headrace.runner.sample_positions import SamplePositions
from headrace.runner.watermark import Watermark
from headrace.types import RowOutput, RowStart, StepPlan

CHANGES = Feature.WATERMARK | Feature.PENALTIES | Feature.BIAS | Feature.MINIMUM

DEFAULT_WATERMARK = Watermark()


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

    def __init__(
        self, max_rows: int, kernels: Kernels, watermark: Watermark = DEFAULT_WATERMARK
    ) -> None:
        self.max_rows = max_rows
        self.kernels = kernels
        self._watermark = watermark
        self._draws = np.zeros(max_rows, DRAW)
        self._features = np.zeros(max_rows, np.uint8)
        self._records = np.zeros(max_rows, RECORD)
        self._counts: dict[int, TokenCounts] = {}
        self._bias = LogitBias()
        self._drawings: dict[int, Drawing] = {}
        """By address of a buffer."""

    def expect(self, drawing: Drawing) -> None:
        """Many logits will be the first rows of its buffer."""
        self._drawings[drawing.logits.data_ptr()] = drawing

    def foresee(self, drawing: Drawing, at: SamplePositions, *, has_masks: bool) -> None:
        """Let the pass draw these positions' tokens, unless its logits must be changed first."""
        if (
            has_masks
            or len(at.rows) > drawing.capacity
            or int(np.bitwise_or.reduce(self._features[at.rows])) & CHANGES
        ):
            drawing.clear()
        else:
            drawing.place(self._draws[at.rows], at.positions)

    def start(self, start: RowStart) -> None:
        """A request enters a row."""
        self._draws[start.row] = draw(start.params)
        self._features[start.row] = features(start.params)
        self._records[start.row] = record(start.params, start.num_prompt_tokens)
        self._bias.start(start)
        self._counts.pop(start.row, None)
        if self._features[start.row] & Feature.PENALTIES:
            prompt_length = start.num_prompt_tokens
            self._counts[start.row] = TokenCounts(start.token_ids[:prompt_length])
            self._counts[start.row].extend(start.token_ids[prompt_length:])

    def sample(self, logits: Tensor, at: SamplePositions, masks: Masks | None = None) -> Samples:
        """Choose one token per row of logits [R, V] float32, which may be changed in place."""
        asked = int(np.bitwise_or.reduce(self._features[at.rows]))
        will_change = bool(asked & CHANGES) or masks is not None
        logprobs = None
        if asked & Feature.LOGPROBS:
            # Of the model's own distribution, so before anything changes the logits.
            logprobs = self._logprobs(logits, at, will_change=will_change)
        if asked & CHANGES:
            self._change_(logits, at)
        if masks is not None:
            self.kernels.run(ops.Allow(logits, masks.index, masks.bits))
        token_ids, largest = self._choose(logits, at)
        return Samples(
            token_ids,
            np.isfinite(largest),
            logprobs.of(token_ids) if logprobs else {},
            logprobs.top() if logprobs else {},
        )

    def draft(self, logits: Tensor, at: SamplePositions) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Choose token ids [R] as `sample` will choose at the same positions of other logits
        [R, V]; and whether there was anything to choose from. Grammars are not asked."""
        if int(np.bitwise_or.reduce(self._features[at.rows])) & CHANGES:
            self._change_(logits, at)
        token_ids, largest = self._choose(logits, at)
        return token_ids, np.isfinite(largest)

    def catch_up(self, plan: StepPlan) -> None:
        """Count what became known without being sampled: tokens that a grammar forced."""
        if not self._counts:
            return
        end = 0
        for row, start, count, num_samples in zip(
            plan.rows, plan.starts, plan.counts, plan.num_samples, strict=True
        ):
            end += count
            if counts := self._counts.get(row):
                num_drafts = max(0, num_samples - 1)
                num_missing = start + count - num_drafts - counts.num_tokens
                if num_missing > 0:
                    known = end - num_drafts
                    counts.extend(plan.token_ids[known - num_missing : known])

    def accept(self, rows: Sequence[int], outputs: Sequence[RowOutput]) -> None:
        """Count what the rows' requests have put out."""
        if self._counts:
            for row, output in zip(rows, outputs, strict=True):
                if row in self._counts:
                    self._counts[row].extend(output.token_ids)

    def _asking(self, at: SamplePositions, feature: Feature) -> Indices:
        """Indices into R."""
        return np.flatnonzero(self._features[at.rows] & feature)

    def _logprobs(
        self, logits: Tensor, at: SamplePositions, *, will_change: bool
    ) -> SampledLogprobs:
        reported = self._asking(at, Feature.LOGPROBS)
        counts = self._records["num_top_logprobs"][at.rows[reported]]
        return SampledLogprobs.take(self.kernels, logits, reported, counts, will_change=will_change)

    def _choose(self, logits: Tensor, at: SamplePositions) -> Choices:
        drawing = self._drawings.get(logits.data_ptr()) or Drawing(self.kernels, logits)
        if drawn := drawing.take():
            return drawn
        drawing.place(self._draws[at.rows], at.positions)
        return drawing.run()

    def _change_(self, logits: Tensor, at: SamplePositions) -> None:
        """The watermark, then penalties, then bias."""
        marked = self._asking(at, Feature.WATERMARK)
        if len(marked):
            self._watermark.add_(logits, marked, [at.token_ids[i] for i in at.index[marked]])
        penalized = self._asking(at, Feature.PENALTIES)
        if len(penalized):
            counts = [self._counts_at(at, index) for index in penalized.tolist()]
            records = self._records[at.rows[penalized]]
            penalize_(logits, penalized, counts, penalties(records, logits.device))
        biased = self._asking(at, Feature.BIAS)
        bounded = self._asking(at, Feature.MINIMUM)
        stop_from = self._records["stop_from"][at.rows[bounded]]
        unstoppable = bounded[at.positions[bounded] < stop_from]
        if len(biased) or len(unstoppable):
            self._bias.add_(logits, at.rows, biased, unstoppable)

    def _counts_at(self, at: SamplePositions, index: int) -> TokenCounts:
        counts = self._counts[int(at.rows[index])]
        return counts.with_drafts(at.drafts[index]) if index in at.drafts else counts
