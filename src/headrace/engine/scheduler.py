"""Which tokens of which requests the next step computes, and what its output means for them.

Knows tokens, blocks and rows; knows no clock but for timings, no channel and no device. Hot file:
`_schedule_decodes` and `update` run for every row of every step.

There are no phases: every request catches up `num_computed` to its number of known tokens. Each
request is in one of three queues, all kept in (priority, arrival) order:

    waiting      has no row and no blocks
    prefilling   lacks several tokens: a prompt, or all tokens again after preemption or a crash
    decoding     lacks exactly the token sampled last

A request with a grammar sits out while the mask for its next token is not ready.

Progress: blocks are taken only when a step needs them. When they run out, the last running request
that is not part of the step yet gives its blocks back and waits at the head of its priority. The
first in order is never asked to, so it always goes on; and nobody is admitted whose known tokens
would not fit into the free blocks, so those that gave way do not come back too early.
"""

import time
from bisect import bisect_left, insort
from operator import attrgetter

from headrace.engine.blocks import BlockPool
from headrace.engine.prefix_cache import PrefixCache
from headrace.engine.request import NO_ROW, Constraint, Request
from headrace.types import Add, EngineStats, RowOutput, StepOutput, StepPlan, TokenEvent

_order = attrgetter("order")


class Scheduler:
    """Continuous batching over a paged KV cache with automatic prefix sharing.

    `max_batch_prefill_tokens` is the token budget of one step. As every running request needs one
    token of it to go on, no more requests run than it has tokens, whatever `max_num_seqs` says.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        max_batch_prefill_tokens: int,
        max_num_seqs: int,
        prefix_caching: bool = True,
    ) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.token_budget = max_batch_prefill_tokens
        self.max_num_seqs = min(max_num_seqs, max_batch_prefill_tokens)
        self.prefix_cache = PrefixCache(self.pool, block_size, is_enabled=prefix_caching)
        self.waiting: list[Request] = []
        self.prefilling: list[Request] = []
        self.decoding: list[Request] = []
        self._requests: dict[int, Request] = {}
        self._rows: list[Request | None] = [None] * self.max_num_seqs
        self._free_rows = list(range(self.max_num_seqs - 1, -1, -1))
        self._ended_rows: list[int] = []
        self._num_arrivals = 0
        self._stats = EngineStats()

    # --- requests come and go

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def num_running(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    def add(self, add: Add, constraint: Constraint | None = None) -> TokenEvent | None:
        """Queue a request, or return the error event that is all it will ever get.

        `constraint` is that of its grammar; it has accepted `add.output_ids`.
        """
        assert add.request_id not in self._requests, f"request id {add.request_id} is in use"
        if error := self._refusal(add):
            return TokenEvent(request_id=add.request_id, token_ids=[], error=error)
        now = time.monotonic()
        request = Request(add, self._num_arrivals, now, self.block_size, constraint)
        self._num_arrivals += 1
        self._requests[request.request_id] = request
        self._enqueue(request, self.waiting)
        return None

    def _refusal(self, add: Add) -> str | None:
        if not add.prompt_ids:
            return "prompt_ids: must not be empty"
        if add.params.max_tokens <= len(add.output_ids):
            return f"max_tokens: {add.params.max_tokens} leave nothing to generate"
        # The last token is never computed, so it needs no place.
        total = len(add.prompt_ids) + add.params.max_tokens - 1
        capacity = self.pool.num_blocks * self.block_size
        if total > capacity:
            return f"prompt and new tokens need {total} places in the KV cache of {capacity}"
        return None

    def abort(self, request_id: int) -> None:
        """Forget a request and take its blocks back; unknown ids are ignored."""
        if request := self._requests.get(request_id):
            self._remove(request)

    def _enqueue(self, request: Request, queue: list[Request]) -> None:
        insort(queue, request, key=_order)
        request.queue = queue

    def _dequeue(self, request: Request) -> None:
        del request.queue[bisect_left(request.queue, request.order, key=_order)]

    def _release(self, request: Request) -> None:
        self.pool.release(request.block_ids)
        if request.row != NO_ROW:
            self._rows[request.row] = None
            self._free_rows.append(request.row)
            self._ended_rows.append(request.row)

    def _remove(self, request: Request) -> None:
        self._dequeue(request)
        self._release(request)
        del self._requests[request.request_id]

    def _preempt(self, request: Request) -> None:
        self._dequeue(request)
        self._release(request)
        request.reset()
        self._enqueue(request, self.waiting)
        self._stats.num_preemptions += 1

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
        num_decodes = len(plan.rows)
        budget = self._schedule_prompts(plan, self.token_budget - num_decodes)
        if self._stats.num_preemptions == num_preemptions:
            budget = self._admit(plan, budget)
        plan.ended, self._ended_rows = self._ended_rows, []
        self._stats.num_decode_tokens = num_decodes
        self._stats.num_prefill_tokens = self.token_budget - budget - num_decodes
        return plan

    def _schedule_decodes(self, plan: StepPlan) -> None:
        block_size, pool = self.block_size, self.pool
        rows, starts, token_ids = plan.rows, plan.starts, plan.token_ids
        new_blocks = plan.new_blocks
        for request in self.decoding:  # preemption shortens it at the end only
            if not request.is_ready:
                continue
            start = request.num_computed
            blocks: list[int] = []
            if start % block_size == 0 and start == len(request.block_ids) * block_size:
                if not self._make_room(request, (self.decoding, self.prefilling)):
                    self._preempt(request)
                    break
                blocks.append(pool.allocate())
                request.block_ids += blocks
                request.num_sent_blocks += 1
            if request.constraint is not None:
                plan.masks[len(rows)] = request.constraint.mask
            rows.append(request.row)
            starts.append(start)
            token_ids.append(request.token_ids[-1])
            new_blocks.append(blocks)
        plan.counts += [1] * len(rows)
        plan.num_samples += [1] * len(rows)

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
            self._dequeue(request)
            self._enqueue(request, self.prefilling)
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
        if end == known and request.constraint is not None:
            plan.masks[len(plan.rows)] = request.constraint.mask
        plan.rows.append(request.row)
        plan.starts.append(start)
        plan.counts.append(end - start)
        plan.token_ids += request.token_ids[start:end]
        plan.new_blocks.append(request.block_ids[request.num_sent_blocks :])
        request.num_sent_blocks = len(request.block_ids)
        plan.num_samples.append(1 if end == known else 0)
        return end - start

    def _allocate(self, request: Request, end: int) -> int:
        """Get blocks for the tokens before `end`; return how far they reach."""
        size = self.block_size
        while len(request.block_ids) * size < end and self._make_room(request, (self.prefilling,)):
            request.block_ids.append(self.pool.allocate())
        return min(end, len(request.block_ids) * size)

    def _make_room(self, request: Request, queues: tuple[list[Request], ...]) -> bool:
        """Preempt requests of `queues`, last in order first, until a block is free.

        Returns False when `request` itself is the last.
        """
        while not self.pool.num_free:
            last = max((queue[-1] for queue in queues if queue), key=_order)
            if last is request:
                return False
            self._preempt(last)
        return True

    def _start_row(self, plan: StepPlan, request: Request) -> None:
        request.row = self._free_rows.pop()
        self._rows[request.row] = request
        plan.started.append(request.row_start())
        request.start_time = request.start_time or time.monotonic()

    # --- update

    def update(self, plan: StepPlan, output: StepOutput) -> list[TokenEvent]:
        """Take in what a plan's execution gave; return what the clients should hear."""
        now = time.monotonic()
        events: list[TokenEvent] = []
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
                events.append(self._take_tokens(request, result, now))
            if request.num_computed >= request.next_full:
                self.prefix_cache.insert_full_blocks(request)
            if request.finish_reason is not None:
                self._remove(request)
        return events

    def _take_tokens(self, request: Request, result: RowOutput, now: float) -> TokenEvent:
        tokens = result.token_ids
        event = TokenEvent(
            request_id=request.request_id,
            token_ids=tokens,
            logprobs=result.logprobs,
            top_logprobs=result.top_logprobs,
        )
        taken = request.append(tokens)
        if request.constraint is not None and request.finish_reason is None:
            request.constraint.accept(tokens)
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
        self._dequeue(request)
        self._enqueue(request, self.decoding)
        if request.first_token_time is None:
            request.first_token_time = now
            event.timings = request.timings(now)
        if request.prompt_logprobs is not None:
            event.prompt_logprobs = [None, *request.prompt_logprobs]
            event.prompt_top_logprobs = [[], *request.prompt_top_logprobs]
            request.prompt_logprobs, request.prompt_top_logprobs = None, []

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

    def check(self) -> None:
        """Assert the invariants that hold between steps."""
        running = self.prefilling + self.decoding
        self.pool.check(request.block_ids for request in running)
        assert sorted(self._requests.values(), key=_order) == sorted(
            self.waiting + running, key=_order
        ), "request in two queues or in none"
        for queue in (self.waiting, self.prefilling, self.decoding):
            assert queue == sorted(queue, key=_order)
            assert all(request.queue is queue for request in queue)
        assert all(not r.block_ids and r.row == NO_ROW for r in self.waiting)
        assert all(r.num_computed == len(r.token_ids) - 1 for r in self.decoding)
        size = self.block_size
        assert all(r.next_full == r.num_computed // size * size + size for r in running)
        rows = sorted(r.row for r in running if r.row != NO_ROW)
        assert sorted(rows + self._free_rows) == list(range(self.max_num_seqs)), "row leaked"


def _drop_surplus(event: TokenEvent, taken: int) -> None:
    """Cut off what was sampled after the token that ended the request."""
    event.token_ids = event.token_ids[:taken]
    event.logprobs = event.logprobs and event.logprobs[:taken]
    event.top_logprobs = event.top_logprobs and event.top_logprobs[:taken]
