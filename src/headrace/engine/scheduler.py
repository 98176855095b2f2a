"""Continuous batching: plans steps, and says what their outputs mean for the requests.

Knows tokens, blocks and rows; knows no clock but for timings, no channel and no device. Hot file:
`update` runs for every row of every step.
"""

import time

from headrace.engine.planner import Planner
from headrace.engine.request import Request
from headrace.engine.speculation.speculator import Speculator
from headrace.types import EngineStats, RowOutput, StepOutput, StepPlan, TokenEvent


class Scheduler(Planner):
    """Continuous batching over a paged KV cache with automatic prefix sharing.

    `max_batch_prefill_tokens` is the token budget of one step. As every running request needs one
    token of it to go on, no more requests run than it has tokens, whatever `max_num_seqs` says.
    Without a `speculator` every token takes a step of its own.
    """

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
                events[-1].num_draft_tokens = num_samples - 1
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
            least = self.speculator.least_probability(request) if self.speculator else 1.0
            request.constraint.accept(tokens, request.draft_ids, least)
        return events

    def _speculate(
        self, speculator: Speculator, plan: StepPlan, output: StepOutput, execute_duration: float
    ) -> None:
        """Learn from a step, and draft for the next."""
        if plan.rows:
            speculator.observe(
                len(plan.token_ids),
                execute_duration - output.draft_duration,
                has_prompts=plan.num_prompt_rows > 0,
            )
        if plan.num_drafts:
            speculator.observe_drafting(plan.num_drafts, output.draft_duration)
        for index in plan.num_drafts:
            if request := self._rows[plan.rows[index]]:
                request.executor_draft_ids = output.rows[index].draft_ids
        pending = sum(len(r.token_ids) - r.num_computed for r in self.prefilling)
        room = self.token_budget - len(self.decoding)
        speculator.draft(self.decoding, min(pending, room), room)

    def _count_drafts(self, request: Request, num_drafts: int, num_accepted: int) -> None:
        request.num_draft_tokens += num_drafts
        request.num_accepted_tokens += num_accepted
        request.num_draft_steps += 1
        self._stats.num_draft_tokens += num_drafts
        self._stats.num_accepted_tokens += num_accepted
        self._stats.num_draft_steps += 1

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

    def _fail(self, request: Request, error: str, now: float) -> TokenEvent:
        """End one request. What it computed may be wrong: nobody else shall build on it."""
        self.pool.forget(request.block_ids)
        self._remove(request)
        return TokenEvent(
            request_id=request.request_id, token_ids=[], error=error, timings=request.timings(now)
        )

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
