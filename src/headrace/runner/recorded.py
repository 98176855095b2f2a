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
        self._tokens, self._sequences, self._rows, self._boundary = (
            torch.zeros(1, dtype=torch.int32) for _ in range(4)
        )
        tokens = Counts(len(token_ids), self._tokens, self._sequences, self._boundary)
        with operations.passes(tokens), self._kernels.record() as program:
            self._hidden = decoder.forward(token_ids, batch)
        self._forward: Program = program
        self._states = torch.zeros(max_logit_rows, decoder.spec.hidden_size)
        rows = Counts(max_logit_rows, self._rows, self._rows, self._boundary)
        with operations.passes(rows), self._kernels.record() as program:
            self._logits = decoder.logits(self._states)
        self._head: Program = program
        self.distinguishes_prompts = operations.distinguishes_prompts
        """Prompt positions are computed otherwise than generated ones."""

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        self._tokens[0] = len(token_ids)
        self._sequences[0] = len(batch.context_lens)
        self._boundary[0] = len(token_ids) - batch.num_prompt_tokens
        self._forward.run()
        return self._hidden[: len(token_ids)]

    def logits(self, hidden: Tensor, num_prompt_rows: int = 0) -> Tensor:
        most, boundary = len(self._states), len(hidden) - num_prompt_rows
        if len(hidden) > most:
            firsts = range(0, len(hidden), most)
            parts = [(hidden[i : i + most], max(0, boundary - i)) for i in firsts]
            return torch.cat([self._part(*part).clone() for part in parts])
        return self._part(hidden, boundary)

    def _part(self, hidden: Tensor, boundary: int) -> Tensor:
        self._rows[0] = len(hidden)
        self._boundary[0] = min(boundary, len(hidden))
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
