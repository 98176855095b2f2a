"""Which tokens of which requests the next step computes, and what its output means for them.

Knows tokens, blocks and rows; knows no clock but for timings, no channel and no device. Hot file:
`_schedule_decodes` and `update` run for every row of every step.

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
from headrace.types import EngineStats, RowOutput, StepOutput, StepPlan, TokenEvent


class Scheduler(RequestQueues):
    """Continuous batching over a paged KV cache with automatic prefix sharing.

    `max_batch_prefill_tokens` is the token budget of one step. As every running request needs one
    token of it to go on, no more requests run than it has tokens, whatever `max_num_seqs` says.
    Without a `speculator` every token takes a step of its own.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        max_batch_prefill_tokens: int,
        max_num_seqs: int,
        prefix_caching: bool = True,
        speculator: Speculator | None = None,
    ) -> None:
        super().__init__(num_blocks, block_size, min(max_num_seqs, max_batch_prefill_tokens))
        self.token_budget = max_batch_prefill_tokens
        self.prefix_cache = PrefixCache(self.pool, block_size, is_enabled=prefix_caching)
        self.speculator = speculator
        self._forced_events: list[TokenEvent] = []
        """Of the step that is planned."""

    # --- schedule

    def schedule(self) -> StepPlan:
        """Plan the next step. Call `update` with its output before the next call."""
        plan = StepPlan(
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
        num_preemptions = self._stats.num_preemptions
        self.prefix_cache.begin_step()
        self._schedule_decodes(plan)
        num_decodes = len(plan.token_ids)
        budget = self._schedule_prompts(plan, self.token_budget - num_decodes)
        if self._stats.num_preemptions == num_preemptions:
            budget = self._admit(plan, budget)
        if self.speculator is not None and self.speculator.asks_executor:
            plan.num_drafts = self.speculator.num_drafts_to_ask(plan, self._rows)
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
        size, known = self.block_size, len(request.token_ids)
        count = max(0, min(len(request.draft_ids), room))
        while (
            len(request.block_ids) * size < known + count and self.pool.num_free > self.num_running
        ):
            request.block_ids.append(self.pool.allocate())
        count = min(count, len(request.block_ids) * size - known)
        plan.token_ids += request.draft_ids[:count]
        request.draft_ids = []
        return count

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
        event = TokenEvent(request_id=request.request_id, token_ids=forced_ids)
        self._forced_events.append(event)
        if request.finish_reason is None:
            self._move(request, self.prefilling)
        else:
            event.finish_reason = request.finish_reason
            event.timings = request.timings(time.monotonic())
            self._end(request)

    def _schedule_prompts(self, plan: StepPlan, budget: int) -> int:
        """Return what is left of the budget."""
        for request in self.prefilling:  # preemption shortens it at the end only
            if not budget:
                break
            if request.is_ready:
                budget -= self._schedule_chunk(plan, request, budget)
        return budget

    def _admit(self, plan: StepPlan, budget: int) -> int:
        """Let waiting requests run, strictly in order. Return what is left of the budget."""
        while budget and self.waiting and self.num_running < self.max_num_seqs:
            request = self.waiting[0]
            if not request.is_ready:  # preempted a moment ago
                break
            if self.prefix_cache.num_blocks_to_allocate(request) > self.pool.num_free:
                break
            self._move(request, self.prefilling)
            self.prefix_cache.note_query(request)
            budget -= self._schedule_chunk(plan, request, budget)
        return budget

    def _schedule_chunk(self, plan: StepPlan, request: Request, budget: int) -> int:
        """Schedule as many tokens of a request as cache, budget and blocks allow; return them."""
        if self.prefix_cache.take_hits(request):
            return 0
        start, known = request.num_computed, len(request.token_ids)
        end = start + budget
        if end >= known:
            end = known
        elif end - end % self.block_size > start:  # so that it can look for hits again
            end -= end % self.block_size
        end = self._allocate(request, end)
        if end == start:
            return 0
        self.prefix_cache.announce(request, end)
        if request.row == NO_ROW:
            self._start_row(plan, request)
        plan.token_ids += request.token_ids[start:end]
        num_samples = num_drafts = 0
        if end == known:
            num_samples = 1
            if request.constraint is not None:
                request.draft_ids = request.constraint.draft_ids
                num_drafts = self._place_drafts(plan, request, budget - (end - start))
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

    # --- update

    def update(
        self, plan: StepPlan, output: StepOutput, execute_duration: float = 0.0
    ) -> list[TokenEvent]:
        """Take in what a plan's execution gave, in seconds too; return what clients should hear."""
        now = time.monotonic()
        events, self._forced_events = self._forced_events, []
        constrained: list[tuple[Request, list[int]]] = []
        for row, start, count, num_samples, result in zip(
            plan.rows, plan.starts, plan.counts, plan.num_samples, output.rows, strict=True
        ):
            request = self._rows[row]
            assert request is not None
            if result.error is not None:
                events.append(self._fail(request, result.error, now))
                continue
            tokens = result.token_ids
            # Of the sampled positions those up to the last accepted one hold known tokens.
            request.num_computed = start + count - num_samples + len(tokens)
            if result.prompt_logprobs and request.prompt_logprobs is not None:
                request.prompt_logprobs += result.prompt_logprobs
                request.prompt_top_logprobs += result.prompt_top_logprobs or []
            if tokens:
                if num_samples > 1:
                    self._count_drafts(request, num_samples - 1, len(tokens) - 1)
                events.append(self._take_tokens(request, result, now))
                if request.constraint is not None and request.finish_reason is None:
                    constrained.append((request, tokens))
            if request.num_computed >= request.next_full:
                self.prefix_cache.insert_full_blocks(request)
            if request.finish_reason is not None:
                self._end(request)
        self._note_tokens(plan, output)
        if self.speculator is not None:
            self._speculate(self.speculator, plan, output, execute_duration)
        for request, tokens in constrained:
            assert request.constraint is not None
            request.constraint.accept(tokens, request.draft_ids)
        return events

    def _speculate(
        self, speculator: Speculator, plan: StepPlan, output: StepOutput, execute_duration: float
    ) -> None:
        """Learn from a step, and draft for the next."""
        speculator.observe(len(plan.token_ids), execute_duration)
        for index in plan.num_drafts:
            if request := self._rows[plan.rows[index]]:
                request.executor_draft_ids = output.rows[index].draft_ids
        pending = sum(len(r.token_ids) - r.num_computed for r in self.prefilling)
        room = self.token_budget - len(self.decoding)
        speculator.draft(self.decoding, min(pending, room), room)

    def _count_drafts(self, request: Request, num_drafts: int, num_accepted: int) -> None:
        request.num_draft_tokens += num_drafts
        request.num_accepted_tokens += num_accepted
        self._stats.num_draft_tokens += num_drafts
        self._stats.num_accepted_tokens += num_accepted

    def _note_tokens(self, plan: StepPlan, output: StepOutput) -> None:
        num_rows = len(plan.rows) - plan.num_samples.count(0)
        self._stats.num_sampled_rows = num_rows
        if plan.num_samples.count(1) == num_rows:
            self._stats.num_skipped_tokens = 0
        else:
            self._stats.num_skipped_tokens = sum(max(0, len(r.token_ids) - 1) for r in output.rows)

    def _take_tokens(self, request: Request, result: RowOutput, now: float) -> TokenEvent:
        tokens = result.token_ids
        event = TokenEvent(
            request_id=request.request_id,
            token_ids=tokens,
            logprobs=result.logprobs,
            top_logprobs=result.top_logprobs,
        )
        taken = request.append(tokens)
        if request.queue is not self.decoding:
            self._finish_prefill(request, event, now)
        if request.finish_reason is not None:
            event.finish_reason = request.finish_reason
            event.timings = request.timings(now)
            if taken < len(tokens):
                _drop_surplus(event, taken)
                request.num_computed -= len(tokens) - taken
        return event

    def _finish_prefill(self, request: Request, event: TokenEvent, now: float) -> None:
        self._move(request, self.decoding)
        if request.first_token_time is None:
            request.first_token_time = now
            event.timings = request.timings(now)
        if request.prompt_logprobs is not None:
            event.prompt_logprobs = [None, *request.prompt_logprobs]
            event.prompt_top_logprobs = [[], *request.prompt_top_logprobs]
            request.prompt_logprobs, request.prompt_top_logprobs = None, []

    def _end(self, request: Request) -> None:
        """It has all its tokens."""
        self._remove(request)
        if self.speculator is not None:
            self.speculator.finish(request)

    def _fail(self, request: Request, error: str, now: float) -> TokenEvent:
        """End one request. What it computed may be wrong: nobody else shall build on it."""
        self.pool.forget(request.block_ids)
        self._remove(request)
        return TokenEvent(
            request_id=request.request_id, token_ids=[], error=error, timings=request.timings(now)
        )

    # --- what others may see

    def stats(self) -> EngineStats:
        """Return the counters after the last step; valid until the next."""
        self._stats.num_running = self.num_running
        self._stats.num_waiting = len(self.waiting)
        self._stats.num_free_blocks = self.pool.num_free
        self._stats.num_cached_blocks = self.pool.num_cached
        self._stats.prefix_cache_queries = self.prefix_cache.num_queries
        self._stats.prefix_cache_hits = self.prefix_cache.num_hits
        return self._stats


def _drop_surplus(event: TokenEvent, taken: int) -> None:
    """Cut off what was sampled after the token that ended the request."""
    event.token_ids = event.token_ids[:taken]
    event.logprobs = event.logprobs and event.logprobs[:taken]
    event.top_logprobs = event.top_logprobs and event.top_logprobs[:taken]
