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
        self._tokens, self._sequences, self._rows = (
            torch.zeros(1, dtype=torch.int32) for _ in range(3)
        )
        tokens = Counts(len(token_ids), self._tokens, self._sequences)
        with operations.passes(tokens), self._kernels.record() as program:
            self._hidden = decoder.forward(token_ids, batch)
        self._forward: Program = program
        self._states = torch.zeros(max_logit_rows, decoder.spec.hidden_size)
        rows = Counts(max_logit_rows, self._rows, self._rows)
        with operations.passes(rows), self._kernels.record() as program:
            self._logits = decoder.logits(self._states)
        self._head: Program = program

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        self._tokens[0] = len(token_ids)
        self._sequences[0] = len(batch.context_lens)
        self._forward.run()
        return self._hidden[: len(token_ids)]

    def logits(self, hidden: Tensor) -> Tensor:
        if len(hidden) > len(self._states):
            return torch.cat(
                [self.logits(part).clone() for part in hidden.split(len(self._states))]
            )
        self._rows[0] = len(hidden)
        self._states[: len(hidden)] = hidden
        self._head.run()
        return self._logits[: len(hidden)]


def recorded(
    model: LanguageModel, backend: AttentionBackend, buffers: BatchBuffers, max_logit_rows: int
) -> Model:
    """The model, recorded if it runs on the kernels."""
    if isinstance(model, Decoder) and isinstance(backend, NativeBackend):
        return RecordedDecoder(model, buffers, max_logit_rows)
    return model
