"""A decoder whose passes are recorded once over fixed buffers and replayed: one call per pass.

What CUDA graphs are on a GPU, but for any batch: programs read the number of rows when they run.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headrace.attention.base import AttentionBackend, AttentionBatch
from headrace.attention.native import NativeBackend
from headrace.kernels import Kernels, Program
from headrace.layers.native import Counts, NativeOperations
from headrace.models.decoder import Decoder
from headrace.models.load import LanguageModel
from headrace.runner.batch import BatchBuffers
from headrace.runner.executor import Model


class RecordedDecoder:
    """`runner.executor.Model` over a decoder made with `NativeOperations`.

    `forward` reads `buffers`, whatever views of them it is given. The results of both passes are
    valid until the next one.
    """

    def __init__(self, decoder: Decoder, buffers: BatchBuffers, max_logit_rows: int) -> None:
        operations = decoder.operations
        assert isinstance(operations, NativeOperations)
        self._kernels: Kernels = operations.kernels
        token_ids, batch = buffers.everything()
        counts = torch.zeros(5, dtype=torch.int32)
        self._counts = counts.numpy().data
        tokens, sequences, rows, boundary, row_boundary = counts.split(1)
        whole = Counts(len(token_ids), tokens, sequences, boundary)
        sampled = Counts(len(token_ids), rows, sequences, row_boundary)
        # One row of a prompt asks for the head as a rule. In int8, as for generated positions, its
        # weights are quicker to read than to widen.
        head = Counts(max_logit_rows, rows, rows)

        def record(batch: AttentionBatch) -> _Pass:
            with operations.passes(whole, sampled), self._kernels.record() as forward:
                hidden = decoder.forward(token_ids, batch)
            with operations.passes(head), self._kernels.record() as head_in_place:
                decoder.logits(hidden[:max_logit_rows])
            return _Pass(forward, _Leading(hidden), head_in_place)

        self._of_sampled = record(batch)
        self._of_all = self._last = record(replace(batch, sampled=None))
        self._max_logit_rows = max_logit_rows
        self._states = torch.zeros(max_logit_rows, decoder.spec.hidden_size)
        with operations.passes(head), self._kernels.record() as program:
            logits = decoder.logits(self._states)
        self._head: Program = program
        self.logits_buffer = logits
        """Of which `logits` gives the first rows."""
        self._logits = _Leading(logits)
        self.distinguishes_prompts = operations.distinguishes_prompts
        """Prompt positions are computed otherwise than generated ones."""

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        num_tokens, sampled = len(token_ids), batch.sampled
        self._counts[0], self._counts[1] = num_tokens, batch.context_lens.shape[0]
        self._counts[3] = num_tokens - batch.num_prompt_tokens
        if sampled is None:
            self._last, num_rows = self._of_all, num_tokens
        else:
            self._last, num_rows = self._of_sampled, len(sampled.index)
            self._counts[2], self._counts[4] = num_rows, num_rows - sampled.num_prompt_tokens
        self._last.program.run()
        return self._last.hidden.rows(num_rows)

    def logits(self, hidden: Tensor) -> Tensor:
        most, num_rows = self._max_logit_rows, len(hidden)
        if num_rows > most:
            return torch.cat([self._part(part).clone() for part in hidden.split(most)])
        return self._part(hidden)

    def _part(self, hidden: Tensor) -> Tensor:
        num_rows = len(hidden)
        self._counts[2] = num_rows
        if hidden is self._last.hidden.view:
            self._last.head.run()
        else:
            self._states[:num_rows] = hidden
            self._head.run()
        return self._logits.rows(num_rows)


class _Leading:
    """The first rows of a buffer: one view for each number of them, which is kept.

    Between two passes every call into torch costs 20 to 60 us, because the weights have driven its
    code out of the CPU's caches.
    """

    def __init__(self, buffer: Tensor) -> None:
        self._buffer = buffer
        self._views: dict[int, Tensor] = {}
        self.view = buffer[:0]
        """The last one asked for."""

    def rows(self, num_rows: int) -> Tensor:
        if num_rows not in self._views:
            self._views[num_rows] = self._buffer[:num_rows]
        self.view = self._views[num_rows]
        return self.view


@dataclass(frozen=True, slots=True)
class _Pass:
    """Of all layers."""

    program: Program
    hidden: _Leading
    head: Program
    """Reads `hidden` where it is."""


def recorded(
    model: LanguageModel, backend: AttentionBackend, buffers: BatchBuffers, max_logit_rows: int
) -> Model:
    """The model, recorded if it runs on the kernels."""
    if isinstance(model, Decoder) and isinstance(backend, NativeBackend):
        return RecordedDecoder(model, buffers, max_logit_rows)
    return model
