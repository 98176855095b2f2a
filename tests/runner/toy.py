"""A one-layer attention model with random weights on a plain paged cache, and its oracle."""

import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch
from headrace.runner.drawing import Drawing
from tests.runner.rows import TWINS

VOCAB_SIZE, SIZE = 53, 16


class ToyModel:
    """Keys and values of a token depend on the token and its position; so does the query."""

    def __init__(self, num_blocks: int = 64, block_size: int = 4) -> None:
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.block_size = block_size
        self.embedding, self.position = random(VOCAB_SIZE, SIZE), random(512, SIZE)
        self.query, self.key, self.value = (
            random(SIZE, SIZE),
            random(SIZE, SIZE),
            random(SIZE, SIZE),
        )
        self.head = random(SIZE, VOCAB_SIZE)
        # What was never written is NaN, so that reading it shows.
        self.cache = torch.full((num_blocks * block_size, 2, SIZE), torch.nan)

    def embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        return self.embedding[token_ids.long()] + self.position[positions.long()]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One token over its context."""
        return ((keys @ query) / SIZE).softmax(0) @ values

    def forward(self, token_ids: Tensor, batch: AttentionBatch) -> Tensor:
        hidden = self.embed(token_ids, batch.positions)
        self.cache[batch.slot_mapping, 0] = hidden @ self.key
        self.cache[batch.slot_mapping, 1] = hidden @ self.value
        out = torch.empty_like(hidden)
        assert batch.context_lens.max() == batch.max_context_len
        assert batch.query_start.diff().max() == batch.max_query_len
        for sequence, table in enumerate(batch.block_table.tolist()):
            begin, end = batch.query_start[sequence : sequence + 2].tolist()
            slots = [b * self.block_size + o for b in table for o in range(self.block_size)]
            assert batch.context_lens[sequence] == batch.positions[end - 1] + 1
            for token in range(begin, end):
                context = self.cache[slots[: int(batch.positions[token]) + 1]]
                query = hidden[token] @ self.query
                out[token] = hidden[token] + self.attend(query, context[:, 0], context[:, 1])
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.head

    def logits_of(self, token_ids: list[int]) -> Tensor:
        """[T, VOCAB_SIZE] by full recomputation, without a cache."""
        hidden = self.embed(torch.tensor(token_ids), torch.arange(len(token_ids)))
        keys, values = hidden @ self.key, hidden @ self.value
        rows = [
            state + self.attend(state @ self.query, keys[: i + 1], values[: i + 1])
            for i, state in enumerate(hidden)
        ]
        return self.logits(torch.stack(rows))


class DrawingToyModel(ToyModel):
    """Draws behind few logits, as recorded passes do."""

    CAPACITY = 4

    def __init__(self, num_blocks: int = 64, block_size: int = 4) -> None:
        super().__init__(num_blocks, block_size)
        self.drawing = Drawing(TWINS, torch.zeros(self.CAPACITY, VOCAB_SIZE))
        with TWINS.record() as program:
            self.drawing.record()
        self._program = program

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden)
        if len(logits) > self.CAPACITY:
            return logits
        rows = self.drawing.logits[: len(logits)]
        rows.copy_(logits)
        self._program.run()
        return rows
