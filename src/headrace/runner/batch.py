"""One step's tensors out of a `StepPlan`, in buffers that live as long as the executor.

The common path only: no Python loop over tokens, and on CUDA one copy per step. The block table of
each executor row lives here, so that plans carry just the blocks that were added.
"""

from array import array
from dataclasses import dataclass
from functools import lru_cache
from operator import add
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace.attention.base import AttentionBatch, SampledTokens
from headrace.types import StepPlan

Indices = npt.NDArray[np.int64]
MAX_SHAPES: Final = 256
"""Of steps, whose views are kept."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What the model reads, valid until the next step, and where its rows lie."""

    token_ids: Tensor
    """[T] int32."""
    attention: AttentionBatch
    rows: Indices
    """[S] executor rows."""
    query_end: Indices
    """[S], behind each sequence's last token of this step."""
    context_lens: Indices
    """[S] tokens of each sequence up to there."""


class BlockTables:
    """Block ids of every executor row, in order of position."""

    def __init__(self, max_rows: int, max_blocks: int) -> None:
        # Zeros are untouched pages: memory grows with the rows and lengths in use.
        self.ids = np.zeros((max_rows, max_blocks), np.int32)
        self.num_blocks = [0] * max_rows
        self.num_used = 0
        """Blocks up to the last one that any row ever had."""
        self.num_changes = 0
        """Steps that gave any row blocks."""

    def update(self, plan: StepPlan) -> None:
        """Empty the rows that change hands, then append each row's new blocks."""
        for start in plan.started:
            self.num_blocks[start.row] = 0
        self.num_changes += any(plan.new_blocks)
        for row, blocks in zip(plan.rows, plan.new_blocks, strict=True):
            if blocks:
                begin = self.num_blocks[row]
                end = self.num_blocks[row] = begin + len(blocks)
                self.ids[row, begin:end] = blocks
                self.num_used = max(self.num_used, max(blocks) + 1)


class BatchBuffers:
    """Fills and owns the input tensors of the model.

    Host and device memory are one allocation each, the same one on the CPU: the arrays of fixed
    length first, the block table of the step packed behind them.
    """

    def __init__(
        self,
        max_tokens: int,
        max_rows: int,
        max_blocks: int,
        block_size: int,
        device: torch.device,
        *,
        is_fixed: bool = False,
        block_tables: BlockTables | None = None,
    ) -> None:
        """`is_fixed`: rows of the block table are always max_blocks apart, for programs that are
        recorded over these buffers; else as far as the step needs, so that CUDA copies less.
        `block_tables`: those of other buffers, for another model over the same rows."""
        self._stride = max_blocks if is_fixed else 0
        self.block_tables = block_tables or BlockTables(max_rows, max_blocks)
        self.max_tokens = max_tokens
        self.block_size = block_size
        lengths = (
            *(2 * max_tokens, max_tokens, max_tokens, max_rows + 1, max_rows),
            *(max_tokens, max_rows + 1),
        )
        size = sum(lengths) + max_rows * max_blocks
        host = torch.from_numpy(np.zeros(size, np.int32))
        is_cpu = device.type == "cpu"
        self._host = host if is_cpu else host.pin_memory()
        self._device = self._host if is_cpu else torch.zeros(size, dtype=torch.int32, device=device)
        self._fixed_length = sum(lengths)
        arrays = np.split(self._host.numpy(), np.cumsum(lengths))
        self._slot_mapping = arrays[0].view(np.int64)
        self._token_ids, self._positions, self._query_start, self._context_lens = arrays[1:5]
        self._sampled, self._sampled_start, self._block_table = arrays[5:]
        tensors = self._device.split((*lengths, max_rows * max_blocks))
        self._tensors = (tensors[0].view(torch.int64), *tensors[1:])
        self._arange = np.arange(max_tokens, dtype=np.int32)
        self._rows: tuple[list[int], Indices] = [], np.zeros(0, np.int64)
        """Of the last step, as the plan had them and as an array."""
        self._copied: tuple[list[int], int, int] | None = None
        """What the packed block table was copied from and for."""
        self._shaped = lru_cache(MAX_SHAPES)(self._slices)
        self._shaped_samples = lru_cache(MAX_SHAPES)(self._sample_slices)

    def beside(self, max_tokens: int, *, is_fixed: bool) -> "BatchBuffers":
        """Buffers for another model over the same rows and blocks."""
        max_rows, max_blocks = self.block_tables.ids.shape
        return BatchBuffers(
            max_tokens,
            max_rows,
            max_blocks,
            self.block_size,
            self._device.device,
            is_fixed=is_fixed,
            block_tables=self.block_tables,
        )

    def everything(self) -> tuple[Tensor, AttentionBatch]:
        """Token ids and batch at full size, in the memory that every step uses (`is_fixed`)."""
        assert self._stride
        max_tokens, max_rows = len(self._token_ids), len(self._context_lens)
        token_ids, batch = self._views(max_tokens, max_rows, self._stride, max_tokens, 0)
        batch.sampled = SampledTokens(*self._sample_slices(max_tokens, max_rows))
        return token_ids, batch

    def fill(self, plan: StepPlan) -> StepBatch:
        """Apply the plan's changes to the block tables and lay out its tokens."""
        self.block_tables.update(plan)
        num_tokens, num_rows = len(plan.token_ids), len(plan.rows)
        if plan.rows != self._rows[0]:
            self._rows = plan.rows, np.array(plan.rows)
        self._token_ids.data[:num_tokens] = array("i", plan.token_ids)
        if num_tokens == num_rows:
            self._place_decodes(plan)
        else:
            self._place_chunks(plan)
        max_context_len = max(map(add, plan.starts, plan.counts))
        stride = self._copy_blocks(plan.rows, -(-max_context_len // self.block_size))
        num_sampled = self._place_samples(plan)
        token_ids, batch = self._upload(
            num_tokens, num_rows, stride, max(plan.counts), max_context_len
        )
        first_prompt_row = num_rows - plan.num_prompt_rows
        batch.num_prompt_tokens = sum(plan.counts[first_prompt_row:])
        if num_sampled != num_tokens:
            sampled = self._shaped_samples(num_sampled, num_rows)
            batch.sampled = SampledTokens(*sampled, sum(plan.num_samples[first_prompt_row:]))
        query_end = self._query_start[1 : num_rows + 1].astype(np.int64)
        context_lens = self._context_lens[:num_rows].astype(np.int64)
        return StepBatch(token_ids, batch, self._rows[1], query_end, context_lens)

    def _place_decodes(self, plan: StepPlan) -> None:
        """Positions and cache slots where every row has one token.

        A loop, because between two passes over the weights each numpy function costs 5 us or more
        before it does anything.
        """
        positions, context_lens = self._positions.data, self._context_lens.data
        query_start, slots = self._query_start.data, self._slot_mapping.data
        block_ids, size = self.block_tables.ids.data, self.block_size
        for index, (row, start) in enumerate(zip(plan.rows, plan.starts, strict=True)):
            positions[index] = start
            query_start[index + 1] = index + 1
            context_lens[index] = start + 1
            slots[index] = block_ids[row, start // size] * size + start % size

    def _place_chunks(self, plan: StepPlan) -> None:
        """Positions and cache slots of all tokens of a step."""
        num_tokens, num_rows = len(plan.token_ids), len(plan.rows)
        starts = np.array(plan.starts, np.int32)
        query_start = self._query_start[: num_rows + 1]
        np.cumsum(plan.counts, out=query_start[1:])
        np.subtract(query_start[1:], query_start[:-1] - starts, out=self._context_lens[:num_rows])
        positions = self._positions[:num_tokens]
        shifts = np.repeat(starts - query_start[:-1], plan.counts)
        np.add(self._arange[:num_tokens], shifts, out=positions)
        rows = np.repeat(self._rows[1], plan.counts)
        block, offset = np.divmod(positions, self.block_size)
        slots = self._slot_mapping[:num_tokens]
        np.multiply(self.block_tables.ids[rows, block], self.block_size, out=slots)
        slots += offset

    def _place_samples(self, plan: StepPlan) -> int:
        """Which tokens are sampled from, unless all are; how many."""
        counts = plan.num_samples
        num_sampled = sum(counts)
        if num_sampled != len(plan.token_ids):
            start = self._sampled_start[: len(counts) + 1]
            np.cumsum(counts, out=start[1:])
            behind = np.repeat(self._query_start[1 : len(counts) + 1] - start[1:], counts)
            np.add(self._arange[:num_sampled], behind, out=self._sampled[:num_sampled])
        return num_sampled

    def _copy_blocks(self, rows: list[int], width: int) -> int:
        """Pack the first `width` blocks of these rows, unless they lie there since the last step;
        return how far rows are apart."""
        stride = self._stride or width
        source = rows, width, self.block_tables.num_changes
        if source != self._copied:
            packed = self._block_table[: len(rows) * stride].reshape(len(rows), stride)
            packed[:, :width] = self.block_tables.ids[self._rows[1], :width]
            self._copied = source
        return stride

    def _upload(
        self, num_tokens: int, num_rows: int, stride: int, max_query_len: int, max_context_len: int
    ) -> tuple[Tensor, AttentionBatch]:
        if self._device is not self._host:
            used = self._fixed_length + num_rows * stride
            self._device[:used].copy_(self._host[:used], non_blocking=True)
        return self._views(num_tokens, num_rows, stride, max_query_len, max_context_len)

    def _views(
        self, num_tokens: int, num_rows: int, stride: int, max_query_len: int, max_context_len: int
    ) -> tuple[Tensor, AttentionBatch]:
        token_ids, parts = self._shaped(num_tokens, num_rows, stride)
        return token_ids, AttentionBatch(*parts, max_query_len, max_context_len)

    def _slices(
        self, num_tokens: int, num_rows: int, stride: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        slot_mapping, token_ids, positions, query_start, context_lens = self._tensors[:5]
        block_table = self._tensors[7]
        return token_ids[:num_tokens], (
            positions[:num_tokens],
            slot_mapping[:num_tokens],
            query_start[: num_rows + 1],
            context_lens[:num_rows],
            block_table[: num_rows * stride].view(num_rows, stride),
        )

    def _sample_slices(self, num_sampled: int, num_rows: int) -> tuple[Tensor, Tensor]:
        return self._tensors[5][:num_sampled], self._tensors[6][: num_rows + 1]
