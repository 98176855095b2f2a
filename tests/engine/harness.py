"""An engine without processes: a scheduler and a fake executor, stepped by hand."""

from collections.abc import Callable

from headrace.engine.fake import GENERATED, FakeExecutor
from headrace.engine.scheduler import Scheduler
from headrace.engine.speculation.speculator import Speculator
from headrace.types import Add, StepPlan, TokenEvent
from tests.engine.oracle import expected


class Engine:
    """Collects events by request; checks all invariants after every step."""

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        budget: int = 64,
        max_num_seqs: int = 8,
        vocab_size: int = 1000,
        prefix_caching: bool = True,
        poison: int | None = None,
        speculator: Speculator | None = None,
        distinguishes_prompts: bool = False,
        duration: Callable[[int], float] = lambda num_tokens: 1.0 + 0.001 * num_tokens,
    ) -> None:
        """`duration`: what a step of so many tokens takes; by default, tokens are cheap."""
        self.scheduler = Scheduler(
            num_blocks=num_blocks,
            block_size=block_size,
            max_batch_prefill_tokens=budget,
            max_num_seqs=max_num_seqs,
            prefix_caching=prefix_caching,
            speculator=speculator,
            distinguishes_prompts=distinguishes_prompts,
        )
        self.executor = FakeExecutor(
            num_blocks=num_blocks,
            block_size=block_size,
            vocab_size=vocab_size,
            poison=poison,
            distinguishes_prompts=distinguishes_prompts,
        )
        self.vocab_size = vocab_size
        self.duration = duration
        self.events: dict[int, list[TokenEvent]] = {}

    def add(self, add: Add) -> None:
        self.events[add.request_id] = []
        if event := self.scheduler.add(add):
            self.events[add.request_id].append(event)

    def step(self) -> StepPlan:
        plan = self.scheduler.schedule()
        assert plan.rows, "a step that does nothing, although there is work"
        assert sum(plan.counts) == len(plan.token_ids) <= self.scheduler.token_budget
        duration = self.duration(sum(plan.counts))
        for event in self.scheduler.update(plan, self.executor.execute(plan), duration):
            self.events[event.request_id].append(event)
        self.scheduler.check()
        return plan

    def run(self, max_steps: int = 10_000) -> None:
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError("requests do not end")

    def output(self, request_id: int) -> list[int]:
        return [token for event in self.events[request_id] for token in event.token_ids]

    def last(self, request_id: int) -> TokenEvent:
        return self.events[request_id][-1]

    def assert_as_alone(self, add: Add) -> None:
        is_split = self.executor.distinguishes_prompts
        tokens, reason = expected(add, self.vocab_size, GENERATED if is_split else 0)
        assert self.output(add.request_id) == tokens[len(add.output_ids) :]
        ends = [e for e in self.events[add.request_id] if e.finish_reason or e.error]
        assert [e.finish_reason for e in ends] == [reason]
        assert ends[0] is self.last(add.request_id)


def prompt(length: int, first: int = 0) -> list[int]:
    return list(range(first, first + length))
