"""The engine's requests: who waits, who runs, and who has which row and which blocks.

Knows when a request may leave or lose its place; knows nothing of steps.

Each request is in one of three queues, all kept in (priority, arrival) order:

    waiting      has no row and no blocks
    prefilling   lacks several tokens: a prompt, what its grammar forced, or all tokens again after
                 preemption or a crash
    decoding     lacks exactly the token sampled last
"""

import time
from bisect import bisect_left, insort
from operator import attrgetter

from headrace.engine.blocks import BlockPool
from headrace.engine.request import NO_ROW, Constraint, Request
from headrace.types import Add, EngineStats, StepPlan, TokenEvent

order = attrgetter("order")


class RequestQueues:
    """Requests by queue, by id and by row."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        *,
        distinguishes_prompts: bool = False,
    ) -> None:
        self._distinguishes_prompts = distinguishes_prompts
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.waiting: list[Request] = []
        self.prefilling: list[Request] = []
        self.decoding: list[Request] = []
        self._requests: dict[int, Request] = {}
        self._rows: list[Request | None] = [None] * max_num_seqs
        self._free_rows = list(range(max_num_seqs - 1, -1, -1))
        self._ended_rows: list[int] = []
        self._num_arrivals = 0
        self._stats = EngineStats()

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
        request = Request(
            add,
            self._num_arrivals,
            now,
            self.block_size,
            constraint,
            distinguishes_prompts=self._distinguishes_prompts,
        )
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
        insort(queue, request, key=order)
        request.queue = queue

    def _dequeue(self, request: Request) -> None:
        del request.queue[bisect_left(request.queue, request.order, key=order)]

    def _move(self, request: Request, queue: list[Request]) -> None:
        self._dequeue(request)
        self._enqueue(request, queue)

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

    def _make_room(self, request: Request, queues: tuple[list[Request], ...]) -> bool:
        """Preempt requests of `queues`, last in order first, until a block is free.

        Returns False when `request` itself is the last.
        """
        while not self.pool.num_free:
            last = max((queue[-1] for queue in queues if queue), key=order)
            if last is request:
                return False
            self._preempt(last)
        return True

    def _start_row(self, plan: StepPlan, request: Request) -> None:
        request.row = self._free_rows.pop()
        self._rows[request.row] = request
        plan.started.append(request.row_start())
        request.start_time = request.start_time or time.monotonic()

    def check(self) -> None:
        """Assert the invariants that hold between steps."""
        running = self.prefilling + self.decoding
        self.pool.check(request.block_ids for request in running)
        assert sorted(self._requests.values(), key=order) == sorted(
            self.waiting + running, key=order
        ), "request in two queues or in none"
        for queue in (self.waiting, self.prefilling, self.decoding):
            assert queue == sorted(queue, key=order)
            assert all(request.queue is queue for request in queue)
        assert all(not r.block_ids and r.row == NO_ROW for r in self.waiting)
        assert all(r.num_computed == len(r.token_ids) - 1 for r in self.decoding)
        size = self.block_size
        assert all(r.next_full == r.num_computed // size * size + size for r in running)
        rows = sorted(r.row for r in running if r.row != NO_ROW)
        assert sorted(rows + self._free_rows) == list(range(self.max_num_seqs)), "row leaked"
