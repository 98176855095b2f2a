"""Runs step plans: fill the batch, one forward pass, sample. The common path only; what single
requests ask for lives in the sampler and its neighbours.
"""

import time
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch
from headrace.runner.batch import BatchBuffers
from headrace.runner.cache_pages import CachePages
from headrace.runner.drawing import Drawing
from headrace.runner.masks import step_masks
from headrace.runner.outputs import row_outputs
from headrace.runner.prompt_logprobs import PromptLogprobs
from headrace.runner.sample_positions import SamplePositions, sample_positions
from headrace.runner.sampler import Sampler
from headrace.types import RowOutput, StepOutput, StepPlan


class Model(Protocol):
    """Tokens in, hidden states out; keys and values go to its attention backend."""

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        """token_ids [T] int32 to hidden states of the batch's sampled tokens [R, H]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [R, H] to logits [R, V] float32, a fresh tensor."""
        ...


class DraftSource(Protocol):
    """Guesses what comes behind the tokens of a step."""

    def draft(
        self, plan: StepPlan, outputs: Sequence[RowOutput], at: SamplePositions, hidden: Tensor
    ) -> None:
        """Set `draft_ids` of outputs for which the plan asks; called after every step.

        hidden [R, H]: what each position was sampled from.
        """
        ...


class ModelExecutor:
    """The `Executor` of one model on one device.

    A row keeps its state until the next request takes it over, so `StepPlan.ended` needs no work.
    """

    def __init__(
        self,
        model: Model,
        buffers: BatchBuffers,
        sampler: Sampler,
        drafts: DraftSource | None = None,
        pages: CachePages | None = None,
        drawing: Drawing | None = None,
    ) -> None:
        """`drawing`: what the model's passes draw where they can; None: they cannot."""
        self._model = model
        self._buffers = buffers
        self._sampler = sampler
        self._drafts = drafts
        self._pages = pages
        self._drawing = drawing
        self._prompt_logprobs = PromptLogprobs(sampler.kernels)

    def execute(self, plan: StepPlan) -> StepOutput:
        """Run one forward pass over the scheduled rows and sample from those that ask for it."""
        # Entering the mode takes up to 80 us: who runs many steps does it once.
        if torch.is_inference_mode_enabled():
            return self._execute(plan)
        with torch.inference_mode():
            return self._execute(plan)

    def _execute(self, plan: StepPlan) -> StepOutput:
        for start in plan.started:
            self._sampler.start(start)
            self._prompt_logprobs.start(start)
        if not plan.rows:
            return StepOutput(rows=[])
        step = self._buffers.fill(plan)
        if self._prompt_logprobs.reads(plan):
            step.attention.sampled = None
        at = sample_positions(plan, step.rows, step.query_end, step.context_lens)
        if self._drawing is not None:
            self._sampler.foresee(self._drawing, at, has_masks=bool(plan.masks))
        hidden = self._model.forward(step.token_ids, step.attention)
        prompt_scores = self._prompt_logprobs.compute(
            plan, step.query_end, hidden, self._model.logits
        )
        self._sampler.catch_up(plan)
        if len(at.index) != len(hidden):
            hidden = hidden[torch.from_numpy(at.index).to(hidden.device)]
        masks = step_masks(plan, hidden.device)
        samples = self._sampler.sample(self._model.logits(hidden), at, masks)
        outputs = row_outputs(plan, at, samples)
        self._sampler.accept(plan.rows, outputs)
        for index, scores in prompt_scores.items():
            outputs[index].prompt_logprobs = scores.logprobs
            outputs[index].prompt_top_logprobs = scores.top_logprobs
        output = StepOutput(rows=outputs)
        if self._drafts is not None:
            begin = time.perf_counter()
            self._drafts.draft(plan, outputs, at, hidden)
            output.draft_duration = time.perf_counter() - begin
        return output

    def prepare(self) -> bool:
        """See `types.Executor`."""
        return self._pages is not None and self._pages.prepare(self._buffers.block_tables.num_used)
