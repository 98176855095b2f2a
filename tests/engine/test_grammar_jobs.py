"""Requests with grammars through the whole loop, over the fake executor."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.engine.channel import Channel
from headrace.engine.constraint import Constraint
from headrace.engine.core import EngineCore
from headrace.engine.fake import FakeExecutor
from headrace.engine.grammar import GrammarCompiler
from headrace.engine.grammar_jobs import GrammarJobs
from headrace.engine.scheduler import Scheduler
from headrace.engine.speculation.speculator import Speculator
from headrace.types import Abort, Add, Command, FinishReason, Grammar, Report, TokenEvent
from tests.engine.oracle import expected, make_add
from tests.engine.random_drafts import RandomDrafts
from tests.engine.test_core import Client
from tests.engine.vocabulary import EOS, ByteVocabulary, text_of

VOCAB_SIZE = 257
PATTERN = "([a-c]{3}-){4}[0-9]+!"


class SlowCompiler(GrammarCompiler):
    """Takes as long as `gate` is closed for the grammar "slow"."""

    def __init__(self) -> None:
        super().__init__(ByteVocabulary, VOCAB_SIZE)
        self.gate = threading.Event()

    def matcher(self, grammar: Grammar) -> object:  # type: ignore[override]
        if grammar.source == "slow":
            assert self.gate.wait(60)
        return super().matcher(grammar)


class Session:
    """An engine in a thread, fed over its channel."""

    def __init__(self, connection: socket.socket, core: EngineCore, gate: threading.Event) -> None:
        self.client = Client(connection)
        self.core = core
        self.gate = gate
        self.events: dict[int, list[TokenEvent]] = {}
        self._steps = self.client.steps()

    def send(self, *commands: Command) -> None:
        for command in commands:
            self.client.channel.send(command)

    def wait_for(self, *request_ids: int) -> None:
        """Until all of them have ended."""
        missing = set(request_ids)
        while missing:
            for event in next(self._steps).events:
                self.events.setdefault(event.request_id, []).append(event)
                if event.finish_reason or event.error:
                    missing.discard(event.request_id)

    def output(self, request_id: int) -> list[int]:
        return [token for event in self.events[request_id] for token in event.token_ids]


def session_with(num_blocks: int, speculator: Speculator | None = None) -> Iterator[Session]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        scheduler = Scheduler(
            num_blocks=num_blocks,
            block_size=4,
            max_batch_prefill_tokens=16,
            max_num_seqs=8,
            speculator=speculator,
        )
        executor = FakeExecutor(num_blocks=num_blocks, block_size=4, vocab_size=VOCAB_SIZE)
        compiler = SlowCompiler()
        grammars = GrammarJobs(compiler, max_lookahead=6 if speculator else 0)
        channel: Channel[Report] = Channel(theirs, Command)
        core = EngineCore(scheduler, executor, channel, grammars)  # type: ignore[arg-type]
        thread = threading.Thread(target=core.run)
        thread.start()
        yield Session(ours, core, compiler.gate)
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=60)
        assert not thread.is_alive()
        scheduler.check()


@pytest.fixture
def session() -> Iterator[Session]:
    yield from session_with(num_blocks=128)


@pytest.fixture
def small_session() -> Iterator[Session]:
    yield from session_with(num_blocks=16)


def constrained(
    request_id: int, source: str = PATTERN, kind: str = "regex", **fields: object
) -> Add:
    grammar = Grammar(kind=kind, source=source)
    fields = {"max_tokens": 40, "stop_token_ids": frozenset({EOS}), "grammar": grammar} | fields
    return make_add(request_id, [request_id, 7, 8], **fields)  # type: ignore[arg-type]


def test_grammars_hold_beside_free_requests(session: Session) -> None:
    free = make_add(9, [1, 2, 3], max_tokens=30)
    session.send(free, *(constrained(i) for i in range(1, 5)))
    session.wait_for(9, 1, 2, 3, 4)
    assert session.output(9) == expected(free, VOCAB_SIZE)[0]
    for i in range(1, 5):
        reason = session.events[i][-1].finish_reason
        text = text_of(session.output(i))
        if reason is FinishReason.EOS_TOKEN:
            assert re.fullmatch(PATTERN, text)
        else:
            assert reason is FinishReason.LENGTH and re.match("([a-c]{3}-){4}[0-9]+", text)


def test_preemption_and_resumption_change_nothing(session: Session, small_session: Session) -> None:
    adds = [constrained(i, "[a-z]{36}") for i in range(1, 5)]
    session.send(*adds)
    session.wait_for(1, 2, 3, 4)
    small_session.send(*adds)
    small_session.wait_for(1, 2, 3, 4)
    outputs = [session.output(i) for i in range(1, 5)]
    assert [small_session.output(i) for i in range(1, 5)] == outputs
    assert small_session.core.scheduler.stats().num_preemptions > 0
    resumed = Add(
        request_id=6, prompt_ids=[1, 7, 8], params=adds[0].params, output_ids=outputs[0][:11]
    )
    session.send(resumed)
    session.wait_for(6)
    assert session.output(6) == outputs[0][11:]


FORCED = r'\{"first":"[a-c]{2}","second":[0-9]{1,3},"third":(true|false)\}!{12}'


@pytest.fixture(params=[128, 24], ids=["room", "preemption"])
def speculative_session(request: pytest.FixtureRequest) -> Iterator[Session]:
    yield from session_with(request.param, RandomDrafts({}, VOCAB_SIZE, seed=1))


@pytest.mark.parametrize("source", [FORCED, PATTERN, "[a-z]{36}", "a+"])
def test_drafts_and_forced_tokens_change_nothing(
    session: Session, speculative_session: Session, source: str
) -> None:
    """Rows with log-probabilities verify what the grammar forces, the others skip it."""
    logprobs = [None, 2, None, 0]
    adds = [
        constrained(i, source, max_tokens=20 * i, num_top_logprobs=count)
        for i, count in enumerate(logprobs, 1)
    ]
    session.send(*adds)
    session.wait_for(1, 2, 3, 4)
    speculator = speculative_session.core.scheduler.speculator
    assert isinstance(speculator, RandomDrafts)
    speculator.outputs |= {i: session.output(i) for i in range(1, 5)}
    speculative_session.send(*adds)
    speculative_session.wait_for(1, 2, 3, 4)
    for i in range(1, 5):
        plain, speculative = session.events[i], speculative_session.events[i]
        assert speculative_session.output(i) == session.output(i)
        assert speculative[-1].finish_reason == plain[-1].finish_reason
        for events in (plain, speculative):
            assert [event.finish_reason for event in events].count(None) == len(events) - 1
        if logprobs[i - 1] is not None:
            assert [value for e in speculative for value in e.logprobs or []] == [
                value for e in plain for value in e.logprobs or []
            ]
    stats = speculative_session.core.scheduler.stats()
    assert stats.num_accepted_tokens > 0
    assert (stats.num_forced_tokens > 0) == (source != "a+")
    assert session.core.scheduler.stats().num_forced_tokens == 0


def test_what_is_forced_at_the_end_needs_no_step(session: Session) -> None:
    scheduler = Scheduler(
        num_blocks=64, block_size=4, max_batch_prefill_tokens=16, max_num_seqs=2,
        speculator=RandomDrafts({}, VOCAB_SIZE, seed=1),
    )  # fmt: skip
    executor = FakeExecutor(num_blocks=64, block_size=4, vocab_size=VOCAB_SIZE)
    add = constrained(1, "(yes|no)[.]")
    matcher = GrammarCompiler(ByteVocabulary, VOCAB_SIZE).matcher(add.params.grammar)  # type: ignore[arg-type]
    scheduler.add(add, Constraint(matcher, [], lambda job: job(), max_lookahead=8))
    events, plans = [], []
    while scheduler.has_work:
        plans.append(scheduler.schedule())
        events += scheduler.update(plans[-1], executor.execute(plans[-1]), 1.0)
        scheduler.check()
    # One step for the prompt; the rest follows from its token.
    assert [len(plan.rows) for plan in plans] == [1, 0]
    output = [token for event in events for token in event.token_ids]
    assert text_of(output) in ("yes.", "no.") and output[-1] == EOS
    assert events[-1].finish_reason is FinishReason.EOS_TOKEN
    assert events[-1].timings is not None
    assert events[-1].timings.num_forced_tokens == len(output) - 1


def test_a_request_waits_for_its_grammar_alone(session: Session) -> None:
    free = make_add(1, [1, 2, 3], max_tokens=5)
    session.send(constrained(2, "slow"), free, constrained(3, "ab"))
    session.wait_for(1, 3)
    assert 2 not in session.events
    session.gate.set()
    session.wait_for(2)
    assert text_of(session.output(2)) == "slow"


def test_a_waiting_request_can_be_aborted(session: Session) -> None:
    session.send(constrained(2, "slow"), Abort([2]))
    session.gate.set()
    session.send(constrained(3, "ab"))
    session.wait_for(3)
    assert 2 not in session.events
    assert not session.core.has_work


def test_an_invalid_grammar_ends_its_request_only(session: Session) -> None:
    session.send(constrained(1, "(a"), constrained(2, "ab"))
    session.wait_for(1, 2)
    (event,) = session.events[1]
    assert event.is_invalid and event.error and event.error.startswith("grammar is not valid: ")
    assert text_of(session.output(2)) == "ab"


def test_a_grammar_that_fails_on_the_way_ends_its_request_only(session: Session) -> None:
    hostile = 'start: x x x x x x\nx: x x | y y | "a" |\ny: x y x | y x y | "b" |'
    free = make_add(2, [1, 2, 3], max_tokens=60)
    session.send(constrained(1, hostile, "lark", max_tokens=400), free)
    session.wait_for(1, 2)
    last = session.events[1][-1]
    assert last.is_invalid or last.finish_reason  # it may end before it becomes too complex
    assert session.output(2) == expected(free, VOCAB_SIZE)[0]


def test_a_late_mask_holds_up_nobody(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Constraint._advance
    late = threading.Event()

    def slow_advance(self: Constraint, token_ids: list[int], *guesses: Any) -> None:
        if token_ids == [*b"s"]:
            assert late.wait(60)
        advance(self, token_ids, *guesses)

    monkeypatch.setattr(Constraint, "_advance", slow_advance)
    free = make_add(1, [1, 2, 3], max_tokens=40)
    session.send(constrained(2, "slow text"), free)
    session.wait_for(1)
    assert session.output(2) == [*b"s"]
    time.sleep(0.05)  # the loop idles meanwhile
    late.set()
    session.wait_for(2)
    assert text_of(session.output(2)) == "slow text"
