"""The engine's loop: commands in; schedule, execute, update, emit.

Knows the order of things; what they mean is known to the scheduler and the executor.
"""

import gc
import time

from headrace.engine.channel import Channel
from headrace.engine.grammar_jobs import GrammarJobs
from headrace.engine.outbox import Outbox
from headrace.engine.scheduler import Scheduler
from headrace.types import Abort, Command, EngineStats, Executor, StepEvents, TokenEvent


class EngineCore:
    """Owns the scheduler and drives one executor until the client goes away."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        channel: Channel[Command],
        grammars: GrammarJobs,
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.channel = channel
        self.grammars = grammars
        self.outbox = Outbox(channel)

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or self.grammars.num_compiling > 0

    def run(self) -> None:
        """Serve until the client closes the channel.

        Sleeps in the kernel while there is nothing to do or to prepare, and goes on with the next
        step otherwise. What `execute` raises ends the loop: the device is unusable, the process
        shall die, and the client starts another that resumes all requests.
        """
        # What lives now lives for ever; without this each full collection walks it again.
        gc.collect()
        gc.freeze()
        while (commands := self.receive()) is not None:
            refusals = self.obey(commands) + self.admit()
            if self.scheduler.has_work:
                self.step(refusals)
            else:
                stats = self.scheduler.stats()
                stats.num_sampled_rows = stats.num_skipped_tokens = 0
                self.emit(refusals, stats, time.monotonic())
                self.outbox.flush()
                self.grammars.idle()

    def receive(self) -> list[Command] | None:
        """Commands that have arrived; without work, wait for one. None: the client is gone."""
        if self.has_work:
            return self.channel.receive(wait=False)
        return self.channel.receive_idle(self.executor.prepare)

    def obey(self, commands: list[Command]) -> list[TokenEvent]:
        """Carry out commands in order; return the events of requests that are refused."""
        refusals = []
        for command in commands:
            if isinstance(command, Abort):
                for request_id in command.request_ids:
                    self.grammars.discard(request_id)
                    self.scheduler.abort(request_id)
            elif command.params.grammar is not None:
                self.grammars.start(command)
            elif refusal := self.scheduler.add(command):
                refusals.append(refusal)
        return refusals

    def admit(self) -> list[TokenEvent]:
        """Queue the requests whose grammars are compiled by now, and end those whose grammars
        failed; return the events of requests that are refused."""
        compiled, failed = self.grammars.collect()
        refusals = [self.scheduler.add(add, constraint) for add, constraint in compiled]
        for request_id, error in failed.items():
            self.scheduler.abort(request_id)
            refusals.append(
                TokenEvent(request_id=request_id, token_ids=[], error=error, is_invalid=True)
            )
        return [refusal for refusal in refusals if refusal is not None]

    def step(self, refusals: list[TokenEvent]) -> None:
        begin = time.monotonic()
        self.grammars.settle()
        plan = self.scheduler.schedule()
        self.outbox.begin_step(len(plan.token_ids))
        scheduled = time.monotonic()
        output = self.executor.execute(plan)
        executed = time.monotonic()
        events = self.scheduler.update(plan, output, executed - scheduled)
        updated = time.monotonic()
        if not plan.rows:
            self.grammars.idle()
        stats = self.scheduler.stats()
        stats.step_duration = updated - begin
        stats.schedule_duration = scheduled - begin
        stats.execute_duration = executed - scheduled
        stats.update_duration = updated - executed
        stats.num_failed = sum(event.error is not None for event in events)
        self.emit(refusals + events, stats, updated)

    def emit(self, events: list[TokenEvent], stats: EngineStats, now: float) -> None:
        """Report the whole step, even if no token came of it: it is a heartbeat."""
        stats.num_waiting += self.grammars.num_compiling
        self.outbox.put(StepEvents(events=events, stats=stats), now)
