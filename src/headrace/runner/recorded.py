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
from headrace.runner.drawing import Drawing
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
        counts = torch.zeros(6, dtype=torch.int32)
        self._counts = counts.numpy().data
        tokens, sequences, boundary, rows, row_boundary, logit_rows = counts.split(1)
        whole = Counts(len(token_ids), tokens, sequences, boundary)
        sampled = Counts(len(token_ids), rows, sequences, row_boundary)
        # One row of a prompt asks for the head as a rule. In int8, as for generated positions, its
        # weights are quicker to read than to widen.
        head = Counts(max_logit_rows, logit_rows, logit_rows)

        self._states = torch.zeros(max_logit_rows, decoder.spec.hidden_size)
        with operations.passes(head), self._kernels.record():
            logits = decoder.logits(self._states)
        self._logits = _Leading(logits)
        """All heads write there; see `Buffers`."""
        self.drawing = Drawing(self._kernels, logits)
        """Draws from logits behind them, what is placed before `forward` or `logits`."""
        with operations.passes(head), self._kernels.record() as program:
            decoder.logits(self._states)
            self.drawing.record()
        self._head: Program = program

        def record(batch: AttentionBatch) -> _Pass:
            with self._kernels.record() as program:
                with operations.passes(whole, sampled):
                    hidden = decoder.forward(token_ids, batch)
                with operations.passes(head):
                    decoder.logits(hidden[:max_logit_rows])
                self.drawing.record()
            return _Pass(program, _Leading(hidden))

        self._of_sampled = record(batch)
        self._of_all = self._last = record(replace(batch, sampled=None))
        self._has_logits = False
        """Of the last pass's hidden states, and nobody has them yet."""
        self._max_logit_rows = max_logit_rows
        self.distinguishes_prompts = operations.distinguishes_prompts
        """Prompt positions are computed otherwise than generated ones."""

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        num_tokens, sampled, counts = len(token_ids), batch.sampled, self._counts
        counts[0], counts[1] = num_tokens, batch.context_lens.shape[0]
        counts[2] = num_tokens - batch.num_prompt_tokens
        if sampled is None:
            self._last, num_rows = self._of_all, num_tokens
        else:
            self._last, num_rows = self._of_sampled, len(sampled.index)
            counts[3], counts[4] = num_rows, num_rows - sampled.num_prompt_tokens
        # Logits in one go with the layers, because between two passes the threads fall asleep and
        # the code gets cold.
        self._has_logits = num_rows <= self._max_logit_rows
        counts[5] = num_rows if self._has_logits else 0
        self._last.program.run()
        return self._last.hidden.rows(num_rows)

    def logits(self, hidden: Tensor) -> Tensor:
        most, num_rows = self._max_logit_rows, len(hidden)
        if num_rows > most:
            return torch.cat([self._part(part).clone() for part in hidden.split(most)])
        return self._part(hidden)

    def _part(self, hidden: Tensor) -> Tensor:
        num_rows = len(hidden)
        has_logits, self._has_logits = self._has_logits, False
        if not has_logits or hidden is not self._last.hidden.view:
            self._counts[5] = num_rows
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
    """Of all layers, and of the head behind them."""

    program: Program
    hidden: _Leading


def recorded(
    model: LanguageModel, backend: AttentionBackend, buffers: BatchBuffers, max_logit_rows: int
) -> Model:
    """The model, recorded if it runs on the kernels."""
    if isinstance(model, Decoder) and isinstance(backend, NativeBackend):
        return RecordedDecoder(model, buffers, max_logit_rows)
    return model
