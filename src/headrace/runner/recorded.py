"""A decoder whose passes are recorded once over fixed buffers and replayed: one call per pass.

What CUDA graphs are on a GPU, but for any batch: programs read the number of rows when they run.
"""

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
        counts = torch.zeros(4, dtype=torch.int32)
        self._counts = counts.numpy().data
        tokens, sequences, rows, boundary = counts.split(1)
        whole = Counts(len(token_ids), tokens, sequences, boundary)
        with operations.passes(whole), self._kernels.record() as program:
            hidden = decoder.forward(token_ids, batch)
        self._forward: Program = program
        self._hidden = _Leading(hidden)
        self._max_logit_rows = max_logit_rows
        self._states = torch.zeros(max_logit_rows, decoder.spec.hidden_size)
        with operations.passes(Counts(max_logit_rows, rows, rows, boundary)):
            with self._kernels.record() as program:
                logits = decoder.logits(self._states)
            self._head: Program = program
        with self._kernels.record() as program:
            with operations.passes(whole):
                decoder.forward(token_ids, batch)
            with operations.passes(Counts(max_logit_rows, rows, rows, boundary)):
                decoder.logits(hidden[:max_logit_rows])
        self._both: Program = program
        self._has_logits = False
        """Of the last forward pass's hidden states, and nobody has them yet."""
        self.logits_buffer = logits
        """Of which `logits` gives the first rows."""
        self._logits = _Leading(logits)
        self.distinguishes_prompts = operations.distinguishes_prompts
        """Prompt positions are computed otherwise than generated ones."""

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        num_tokens = token_ids.shape[0]
        self._counts[0], self._counts[1] = num_tokens, batch.context_lens.shape[0]
        self._counts[2] = num_tokens
        self._counts[3] = num_tokens - batch.num_prompt_tokens
        # In one go, because between two passes the threads fall asleep and the code gets cold.
        self._has_logits = batch.needs_all_logits and num_tokens <= self._max_logit_rows
        (self._both if self._has_logits else self._forward).run()
        return self._hidden.rows(num_tokens)

    def logits(self, hidden: Tensor, num_prompt_rows: int = 0) -> Tensor:
        most, num_rows = self._max_logit_rows, hidden.shape[0]
        boundary = num_rows - num_prompt_rows
        if num_rows > most:
            firsts = range(0, num_rows, most)
            parts = [(hidden[i : i + most], max(0, boundary - i)) for i in firsts]
            return torch.cat([self._part(*part).clone() for part in parts])
        return self._part(hidden, boundary)

    def _part(self, hidden: Tensor, boundary: int) -> Tensor:
        num_rows = hidden.shape[0]
        has_logits, self._has_logits = self._has_logits, False
        if not has_logits or hidden is not self._hidden.view:
            self._counts[2], self._counts[3] = num_rows, min(boundary, num_rows)
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


def recorded(
    model: LanguageModel, backend: AttentionBackend, buffers: BatchBuffers, max_logit_rows: int
) -> Model:
    """The model, recorded if it runs on the kernels."""
    if isinstance(model, Decoder) and isinstance(backend, NativeBackend):
        return RecordedDecoder(model, buffers, max_logit_rows)
    return model
