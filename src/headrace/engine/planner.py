"""Which tokens of which requests the next step computes.

Knows tokens, blocks and rows; knows no clock but for timings. Hot file: `_schedule_decodes` runs
for every row of every step.

There are no phases: every request catches up `num_computed` to its number of known tokens, and may
bring drafts behind them, which are tokens like any other until the output says which were right.
A request with a grammar sits out while the mask for its next token is not ready; what its grammar
leaves no choice of becomes known without being sampled.

Progress: blocks are taken only when a step needs them, and for drafts only while they are plenty.
When they run out, the last running request that is not part of the step yet gives its blocks back
and waits at the head of its priority. The first in order is never asked to, so it always goes on;
and nobody is admitted whose known tokens would not fit into the free blocks, so those that gave way
do not come back too early.
"""

import time

from headrace.engine.prefix_cache import PrefixCache
from headrace.engine.queues import RequestQueues
from headrace.engine.request import NO_ROW, Request
from headrace.engine.speculation.speculator import Speculator
from headrace.types import StepPlan, TokenEvent


class Planner(RequestQueues):
    """The half of the scheduler that makes plans; see there."""

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        max_batch_prefill_tokens: int,
        max_num_seqs: int,
        prefix_caching: bool = True,
        speculator: Speculator | None = None,
        distinguishes_prompts: bool = False,
    ) -> None:
        """`distinguishes_prompts`: see `EngineInfo`."""
        super().__init__(
            num_blocks,
            block_size,
            min(max_num_seqs, max_batch_prefill_tokens),
            distinguishes_prompts=distinguishes_prompts,
        )
        self.token_budget = max_batch_prefill_tokens
        self.prefix_cache = PrefixCache(self.pool, block_size, is_enabled=prefix_caching)
        self.speculator = speculator
        self._forced_events: list[TokenEvent] = []
        """Of the step that is planned."""

    def schedule(self) -> StepPlan:
        """Plan the next step. Call `update` with its output before the next call."""
        plan, prompts = _empty_plan(), _empty_plan()
        num_preemptions = self._stats.num_preemptions
        self.prefix_cache.begin_step()
        self._schedule_decodes(plan)
        num_decodes = len(plan.token_ids)
        budget = self._schedule_chunks((plan, prompts), self.token_budget - num_decodes)
        if self._stats.num_preemptions == num_preemptions:
            budget = self._admit((plan, prompts), budget)
        _append_prompts(plan, prompts)
        if self.speculator is not None and self.speculator.asks_executor:
            plan.num_drafts = self.speculator.num_drafts_to_ask(plan, self._rows)
            self._make_room_for_drafter(plan)
        plan.ended, self._ended_rows = self._ended_rows, []
        self._stats.num_decode_tokens = num_decodes
        self._stats.num_prefill_tokens = self.token_budget - budget - num_decodes
        return plan

    def _schedule_decodes(self, plan: StepPlan) -> None:
        block_size, pool = self.block_size, self.pool
        rows, starts, token_ids = plan.rows, plan.starts, plan.token_ids
        new_blocks = plan.new_blocks
        num_drafts: dict[int, int] = {}
        jumping: list[Request] = []
        for request in self.decoding:  # preemption shortens it at the end only
            constraint = request.constraint
            if constraint is not None:
                if not constraint.is_ready:
                    continue
                if constraint.num_forced and request.params.num_top_logprobs is None:
                    jumping.append(request)
                    continue
                request.draft_ids = constraint.draft_ids
            start = request.num_computed
            blocks: list[int] = []
            if start % block_size == 0 and start == len(request.block_ids) * block_size:
                if not self._make_room(request, (self.decoding, self.prefilling)):
                    self._preempt(request)
                    break
                blocks.append(pool.allocate())
                request.block_ids += blocks
                request.num_sent_blocks += 1
            token_ids.append(request.token_ids[-1])
            if request.draft_ids:
                room = self.token_budget - len(self.decoding) - sum(num_drafts.values())
                num_drafts[len(rows)] = self._place_drafts(plan, request, room)
                blocks += self._unsent_blocks(request)
            if constraint is not None:
                plan.masks[len(rows)] = constraint.masks(num_drafts.get(len(rows), 0))
            rows.append(request.row)
            starts.append(start)
            new_blocks.append(blocks)
        plan.counts += [1] * len(rows)
        for index, count in num_drafts.items():
            plan.counts[index] += count
        plan.num_samples += plan.counts
        for request in jumping:
            if request.queue is self.decoding:  # not preempted meanwhile
                self._jump_forward(request)

    def _place_drafts(self, plan: StepPlan, request: Request, room: int) -> int:
        """Put a request's drafts behind its last token, as far as `room` tokens and blocks that
        nobody else may need in this step go. Return how many."""
        known = len(request.token_ids)
        count = max(0, min(len(request.draft_ids), room))
        count = self._allocate_spare(request, known + count) - known
        plan.token_ids += request.draft_ids[:count]
        request.draft_ids = []
        return count

    def _make_room_for_drafter(self, plan: StepPlan) -> None:
        """Spare blocks for what the executor drafts behind the tokens of this step."""
        for index, count in plan.num_drafts.items():
            request = self._rows[plan.rows[index]]
            assert request is not None
            self._allocate_spare(request, plan.starts[index] + plan.counts[index] + count)
            plan.new_blocks[index] += self._unsent_blocks(request)

    def _allocate_spare(self, request: Request, end: int) -> int:
        """Get blocks for tokens before `end` while there are more than others may need in this
        step; return how far they reach."""
        size, pool = self.block_size, self.pool
        while len(request.block_ids) * size < end and pool.num_free > self.num_running:
            request.block_ids.append(pool.allocate())
        return min(end, len(request.block_ids) * size)

    @staticmethod
    def _unsent_blocks(request: Request) -> list[int]:
        blocks = request.block_ids[request.num_sent_blocks :]
        request.num_sent_blocks = len(request.block_ids)
        return blocks

    def _jump_forward(self, request: Request) -> None:
        """Take the tokens that a grammar leaves no choice of: they need keys and values, but
        nobody needs to sample them."""
        assert request.constraint is not None
        forced_ids = request.constraint.jump_forward()
        forced_ids = forced_ids[: request.append(forced_ids)]
        request.num_forced_tokens += len(forced_ids)
        self._stats.num_forced_tokens += len(forced_ids)
        event = TokenEvent(request_id=request.request_id, token_ids=forced_ids, is_forced=True)
        self._forced_events.append(event)
        if request.finish_reason is None:
            self._move(request, self.prefilling)
        else:
            event.finish_reason = request.finish_reason
            event.timings = request.timings(time.monotonic())
            self._end(request)

    def _schedule_chunks(self, plans: tuple[StepPlan, StepPlan], budget: int) -> int:
        """Return what is left of the budget."""
        for request in self.prefilling:  # preemption shortens it at the end only
            if not budget:
                break
            if request.is_ready:
                budget -= self._schedule_chunk(plans, request, budget)
        return budget

    def _admit(self, plans: tuple[StepPlan, StepPlan], budget: int) -> int:
        """Let waiting requests run, strictly in order. Return what is left of the budget."""
        while budget and self.waiting and self.num_running < self.max_num_seqs:
            request = self.waiting[0]
            if not request.is_ready:  # preempted a moment ago
                break
            if self.prefix_cache.num_blocks_to_allocate(request) > self.pool.num_free:
                break
            self._move(request, self.prefilling)
            self.prefix_cache.note_query(request)
            budget -= self._schedule_chunk(plans, request, budget)
        return budget

    def _schedule_chunk(
        self, plans: tuple[StepPlan, StepPlan], request: Request, budget: int
    ) -> int:
        """Schedule as many tokens of a request as cache, budget and blocks allow; return them.

        They go into the second of the plans if they are of the prompt, else into the first."""
        if self.prefix_cache.take_hits(request):
            return 0
        start, known = request.num_computed, len(request.token_ids)
        limit = request.end_of_kind(start, start + budget)
        end = min(limit, known)
        is_cut = start + budget == end < known
        if is_cut and end - end % self.block_size > start:  # so that it can look for hits again
            end -= end % self.block_size
        end = self._allocate(request, end)
        if end == start:
            return 0
        self.prefix_cache.announce(request, end)
        plan = plans[start < request.num_prompt_tokens]
        if request.row == NO_ROW:
            self._start_row(plan, request)
        plan.token_ids += request.token_ids[start:end]
        num_samples = num_drafts = 0
        if end == known:
            num_samples = 1
            if request.constraint is not None:
                request.draft_ids = request.constraint.draft_ids
                num_drafts = self._place_drafts(plan, request, limit - end)
                plan.masks[len(plan.rows)] = request.constraint.masks(num_drafts)
        plan.rows.append(request.row)
        plan.starts.append(start)
        plan.counts.append(end - start + num_drafts)
        plan.new_blocks.append(self._unsent_blocks(request))
        plan.num_samples.append(num_samples + num_drafts)
        return plan.counts[-1]

    def _allocate(self, request: Request, end: int) -> int:
        """Get blocks for the tokens before `end`; return how far they reach."""
        size = self.block_size
        while len(request.block_ids) * size < end and self._make_room(request, (self.prefilling,)):
            request.block_ids.append(self.pool.allocate())
        return min(end, len(request.block_ids) * size)

    def _end(self, request: Request) -> None:
        """It has all its tokens."""
        self._remove(request)
        if self.speculator is not None:
            self.speculator.finish(request)


def _empty_plan() -> StepPlan:
    return StepPlan(
        ended=[],
        started=[],
        rows=[],
        starts=[],
        counts=[],
        token_ids=[],
        new_blocks=[],
        num_samples=[],
        masks={},
    )


def _append_prompts(plan: StepPlan, prompts: StepPlan) -> None:
    num_others = len(plan.rows)
    plan.num_prompt_rows = len(prompts.rows)
    plan.started += prompts.started
    plan.rows += prompts.rows
    plan.starts += prompts.starts
    plan.counts += prompts.counts
    plan.token_ids += prompts.token_ids
    plan.new_blocks += prompts.new_blocks
    plan.num_samples += prompts.num_samples
    for index, mask in prompts.masks.items():
        plan.masks[num_others + index] = mask
