"""Forward passes of a drafting model over the blocks of the target's rows.

A block id means the same slots in every cache, so a drafting model reads and writes the target's
cache, or one of its own beside it, through the same block tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headrace.runner.batch import BatchBuffers
from headrace.runner.drafting.base import Turn
from headrace.runner.executor import Model
from headrace.types import StepPlan


@dataclass(frozen=True, slots=True)
class Span:
    """Successive tokens of one row."""

    row: int
    start: int
    """Position of the first."""
    token_ids: list[int]


class DraftPasses:
    """`buffers` have the target's block tables; `max_position` is the longest context."""

    def __init__(self, model: Model, buffers: BatchBuffers, max_position: int) -> None:
        self._model = model
        self._buffers = buffers
        self._max_position = max_position

    @property
    def max_tokens(self) -> int:
        """Of one pass."""
        return self._buffers.max_tokens

    def logits(self, spans: Sequence[Span], count: int) -> Tensor:
        """Compute all spans; [count, V] behind the last tokens of the first `count`."""
        step = self._buffers.fill(
            StepPlan(
                ended=[],
                started=[],
                rows=[span.row for span in spans],
                starts=[span.start for span in spans],
                counts=[len(span.token_ids) for span in spans],
                token_ids=[token_id for span in spans for token_id in span.token_ids],
                new_blocks=[[]] * len(spans),
                num_samples=[],
            )
        )
        step.attention.needs_all_logits = count == len(step.token_ids)
        hidden = self._model.forward(step.token_ids, step.attention)
        if count != len(hidden):
            hidden = hidden[torch.from_numpy(step.query_end[:count] - 1).to(hidden.device)]
        return self._model.logits(hidden)

    def within_cache(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns, cut to what their rows' blocks have room for: the newest token and all drafts
        but the last get keys and values."""
        num_blocks, block_size = self._buffers.block_tables.num_blocks, self._buffers.block_size
        cut = []
        for turn in turns:
            room = min(num_blocks[turn.row] * block_size, self._max_position)
            cut.append(replace(turn, count=min(turn.count, room - turn.position + 1)))
        return [turn for turn in cut if turn.count > 0]
