"""Which tokens have keys and values in the cache of a draft model.

The draft model computes a row's tokens only when it shall draft for it, so that a row without
drafts costs nothing. What it computed stays with the block: whoever shares the prefix finds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from headrace.runner.batch import BlockTables
from headrace.types import RowOutput, StepPlan


@dataclass(slots=True)
class _Row:
    token_ids: list[int]
    """All that are known."""
    num_held: int = 0
    """Leading ones that are known to have keys and values."""
    ahead: list[int] = field(default_factory=list)
    """Drafted tokens behind those, computed before anybody knew whether they are right."""


class Ledger:
    """Follows the plans that the target executes over the same block tables."""

    def __init__(self, tables: BlockTables, num_blocks: int, block_size: int) -> None:
        self._tables = tables
        self._block_size = block_size
        self._rows: dict[int, _Row] = {}
        self._num_held = np.zeros(num_blocks, np.int32)
        """By block: how many of its leading tokens have keys and values."""

    def follow(self, plan: StepPlan, outputs: Sequence[RowOutput]) -> None:
        """After a step, for which the block tables were updated."""
        for start in plan.started:
            self._rows[start.row] = _Row(list(start.token_ids))
        end = 0
        for index, row in enumerate(plan.rows):
            end += plan.counts[index]
            if plan.new_blocks[index]:
                self._empty(row, plan.new_blocks[index], plan.starts[index])
            known = self._rows[row].token_ids
            num_drafts = max(0, plan.num_samples[index] - 1)
            num_missing = plan.starts[index] + plan.counts[index] - num_drafts - len(known)
            if num_missing > 0:  # a grammar forced them
                begin = end - num_drafts - num_missing
                known += plan.token_ids[begin : begin + num_missing]
            known += outputs[index].token_ids

    def _empty(self, row: int, new_blocks: list[int], start: int) -> None:
        """Forget what was in new blocks, unless they lie before the row's first token to compute:
        these hold what somebody else computed for the same tokens."""
        first_empty = -(-start // self._block_size)
        num_blocks = self._tables.num_blocks[row]
        num_empty = min(len(new_blocks), num_blocks - first_empty)
        if num_empty > 0:
            self._num_held[new_blocks[-num_empty:]] = 0

    def missing(self, row: int, end: int) -> int:
        """Position of the row's first token before `end` that has no keys and values, else end."""
        state = self._rows[row]
        known, position = state.token_ids, state.num_held
        for token_id in state.ahead:
            if position >= len(known) or known[position] != token_id:
                break
            position += 1
        state.ahead = []
        self.hold(row, position)
        size, ids = self._block_size, self._tables.ids[row]
        while position < end:
            in_block = int(self._num_held[ids[position // size]])
            if in_block <= position % size:
                break
            position += in_block - position % size
        state.num_held = min(position, end)
        return state.num_held

    def token_ids(self, row: int, start: int, end: int) -> list[int]:
        """Known tokens of a row."""
        return self._rows[row].token_ids[start:end]

    def hold(self, row: int, end: int) -> None:
        """All of the row's tokens before `end` have keys and values."""
        state, size = self._rows[row], self._block_size
        for index in range(state.num_held // size, -(-end // size)):
            block = self._tables.ids[row, index]
            self._num_held[block] = max(self._num_held[block], min(size, end - index * size))
        state.num_held = max(state.num_held, end)

    def hold_ahead(self, row: int, token_id: int) -> None:
        """So has a drafted token behind them."""
        self._rows[row].ahead.append(token_id)
