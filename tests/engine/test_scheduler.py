import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.engine.fake import GENERATED
from headrace.engine.scheduler import Scheduler
from headrace.engine.speculation.prompt_lookup import PromptLookup
from headrace.engine.speculation.speculator import Speculator
from headrace.types import Add, FinishReason, RowOutput, StepOutput, TokenEvent
from tests.engine.harness import Engine, prompt
from tests.engine.oracle import (
    expected,
    expected_prompt_logprobs,
    expected_prompt_top_logprobs,
    make_add,
)
from tests.engine.random_drafts import RandomDrafts

# --- one request


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 63, 64, 65, 150])
def test_prompts_of_any_length_in_chunks(length: int) -> None:
    engine = Engine(budget=16)
    add = make_add(1, prompt(length), max_tokens=10)
    engine.add(add)
    engine.run()
    engine.assert_as_alone(add)
    assert engine.executor.num_computed_tokens == length + 9


def test_stop_token_counts_after_min_tokens_only() -> None:
    free, _ = expected(make_add(1, prompt(5), max_tokens=12), vocab_size=1000)
    stop = free[3]
    for min_tokens, num_tokens in ((0, 4), (3, 4), (4, 12)):
        engine = Engine()
        engine.add(
            make_add(1, prompt(5), 12, stop_token_ids=frozenset({stop}), min_tokens=min_tokens)
        )
        engine.run()
        assert engine.output(1) == free[:num_tokens]
        reason = FinishReason.EOS_TOKEN if num_tokens == 4 else FinishReason.LENGTH
        assert engine.last(1).finish_reason == reason


def test_stop_token_wins_over_length() -> None:
    free, _ = expected(make_add(1, prompt(5), max_tokens=4), vocab_size=1000)
    engine = Engine()
    engine.add(make_add(1, prompt(5), 4, stop_token_ids=frozenset({free[3]})))
    engine.run()
    assert engine.last(1).finish_reason == FinishReason.EOS_TOKEN


@pytest.mark.parametrize("num_done", [1, 4, 9])
def test_resume_goes_on_where_the_other_engine_stopped(num_done: int) -> None:
    free, _ = expected(make_add(1, prompt(30), max_tokens=10), vocab_size=1000)
    engine = Engine(budget=16)
    add = make_add(1, prompt(30), 10, output_ids=free[:num_done])
    engine.add(add)
    first = engine.step()
    assert first.started[0].token_ids == prompt(30) + free[:num_done]
    assert first.started[0].num_prompt_tokens == 30
    engine.run()
    engine.assert_as_alone(add)


def test_impossible_requests_are_refused_with_a_reason() -> None:
    engine = Engine(num_blocks=2, block_size=4)
    engine.add(make_add(1, []))
    engine.add(make_add(2, prompt(5), max_tokens=5))
    engine.add(make_add(3, prompt(5), max_tokens=2, output_ids=[1, 2]))
    assert not engine.scheduler.has_work
    assert "prompt_ids" in str(engine.last(1).error)
    assert "9 places" in str(engine.last(2).error)
    assert "max_tokens" in str(engine.last(3).error)
    engine.add(make_add(4, prompt(5), max_tokens=4))
    engine.run()
    engine.assert_as_alone(make_add(4, prompt(5), max_tokens=4))


# --- several requests


def test_decodes_come_first_and_prompt_chunks_fill_the_budget() -> None:
    engine = Engine(budget=16, max_num_seqs=4)
    engine.add(make_add(1, prompt(4), max_tokens=30))
    engine.step()
    engine.add(make_add(2, prompt(100, first=500)))
    plan = engine.step()
    assert (plan.counts, plan.num_samples) == ([1, 12], [1, 0])
    assert engine.scheduler.stats().num_decode_tokens == 1
    assert engine.scheduler.stats().num_prefill_tokens == 12


def test_waiting_requests_run_by_priority_then_arrival() -> None:
    engine = Engine(max_num_seqs=1)
    order = [(1, 5), (2, 0), (3, 0), (4, -1)]
    for request_id, priority in order:
        engine.add(make_add(request_id, prompt(3, request_id * 100), 1, priority=priority))
    started = [engine.step().started[0].token_ids[0] for _ in order]
    assert started == [400, 200, 300, 100]


def test_rows_are_stable_and_ended_rows_are_told_once() -> None:
    engine = Engine()
    engine.add(make_add(1, prompt(3), max_tokens=2))
    engine.add(make_add(2, prompt(3, first=50), max_tokens=5))
    first, second, third, fourth = (engine.step() for _ in range(4))
    assert first.rows == second.rows
    assert (third.ended, fourth.ended) == ([first.rows[0]], [])
    assert third.rows == [first.rows[1]]


def test_abort_gives_blocks_back_at_once() -> None:
    engine = Engine(budget=8, max_num_seqs=2)
    for request_id in range(4):
        engine.add(make_add(request_id, prompt(20, first=request_id * 100)))
    engine.step()
    assert engine.scheduler.pool.num_free < 64
    for request_id in [*range(4), 77, 0]:
        engine.scheduler.abort(request_id)
        engine.scheduler.check()
    assert engine.scheduler.pool.num_free == 64
    assert not engine.scheduler.has_work
    engine.add(make_add(9, prompt(5)))
    engine.run()
    engine.assert_as_alone(make_add(9, prompt(5)))


def test_a_failing_row_ends_alone_and_leaves_nothing_in_the_cache() -> None:
    engine = Engine(poison=666, budget=8)
    bad = [*prompt(12), 666, *prompt(5)]
    engine.add(make_add(1, bad))
    engine.add(make_add(2, prompt(10, first=300)))
    engine.run()
    assert engine.last(1).error == "token 666 is poison"
    assert len(engine.events[1]) == 1
    engine.assert_as_alone(make_add(2, prompt(10, first=300)))
    engine.add(make_add(3, prompt(12)))
    assert engine.step().starts == [0]


def test_when_blocks_run_out_the_last_request_gives_way() -> None:
    engine = Engine(num_blocks=12, block_size=4)
    adds = [make_add(i, prompt(8, first=i * 100), max_tokens=20) for i in range(3)]
    for add in adds:
        engine.add(add)
    engine.run()
    for add in adds:
        engine.assert_as_alone(add)
    preemptions = [engine.last(i).timings.num_preemptions for i in range(3)]  # type: ignore[union-attr]
    assert preemptions[0] == 0
    assert sum(preemptions) == engine.scheduler.stats().num_preemptions > 0


def test_a_prompt_that_gave_way_starts_its_logprobs_anew() -> None:
    engine = Engine(num_blocks=12, block_size=4, budget=8)
    engine.add(make_add(1, prompt(19), max_tokens=24))
    fields = {"prompt_logprobs": True, "num_top_logprobs": 2}
    engine.add(make_add(2, prompt(28, first=100), max_tokens=2, **fields))
    engine.run()
    assert engine.last(2).timings.num_preemptions == 1  # type: ignore[union-attr]
    first = engine.events[2][0]
    assert first.prompt_logprobs == expected_prompt_logprobs(prompt(28, first=100))
    assert first.prompt_top_logprobs == expected_prompt_top_logprobs(
        prompt(28, first=100), 2, vocab_size=1000
    )


def test_nobody_is_admitted_whose_tokens_do_not_fit_yet() -> None:
    engine = Engine(num_blocks=12, block_size=4, budget=8)
    engine.add(make_add(1, prompt(24), max_tokens=4))
    engine.add(make_add(2, prompt(30, first=100), max_tokens=4))
    engine.run()
    assert engine.scheduler.stats().num_preemptions == 0
    engine.assert_as_alone(make_add(2, prompt(30, first=100), max_tokens=4))


def test_several_accepted_tokens_stop_and_rejected_ones_leave_no_trace() -> None:
    """The scheduler's side of speculation: a row whose plan had two drafts."""
    scheduler = Scheduler(
        num_blocks=8, block_size=4, max_batch_prefill_tokens=16, max_num_seqs=2
    )  # fmt: skip
    scheduler.add(make_add(1, prompt(6), max_tokens=6, stop_token_ids=frozenset({99})))
    plan = scheduler.schedule()
    scheduler.update(plan, StepOutput(rows=[RowOutput(token_ids=[10])]))

    def step_with_drafts(accepted: list[int]) -> TokenEvent:
        plan = scheduler.schedule()
        plan.counts, plan.num_samples = [3], [3]
        output = RowOutput(token_ids=accepted, logprobs=[-1.0] * len(accepted))
        (event,) = scheduler.update(plan, StepOutput(rows=[output]))
        scheduler.check()
        return event

    assert step_with_drafts([11]).token_ids == [11]
    assert scheduler.decoding[0].num_computed == 7
    assert step_with_drafts([12, 13]).token_ids == [12, 13]
    assert scheduler.decoding[0].num_computed == 9
    last = step_with_drafts([14, 99, 15])
    assert (last.token_ids, last.logprobs) == ([14, 99], [-1.0, -1.0])
    assert last.finish_reason == FinishReason.EOS_TOKEN
    assert not scheduler.has_work


def speculative(max_executor_drafts: int = 0) -> Speculator:
    return Speculator(PromptLookup(), 8, max_executor_drafts)


def test_lookup_saves_steps_and_changes_nothing() -> None:
    """A tiny vocabulary without a seed repeats itself; and the second output repeats the first."""
    adds = [make_add(i, prompt(6), max_tokens=60) for i in range(2)]
    engine = Engine(vocab_size=2, speculator=speculative())
    for add in adds:
        engine.add(add)
        engine.run()
        engine.assert_as_alone(add)
    timings = engine.last(1).timings
    assert timings is not None
    assert len(engine.events[1]) < 25
    assert timings.num_draft_tokens >= timings.num_accepted_tokens
    drafts_failed = timings.num_draft_tokens - timings.num_accepted_tokens
    assert timings.num_accepted_tokens / 8 <= timings.num_draft_steps <= len(engine.events[1])
    assert drafts_failed <= 8 * timings.num_draft_steps
    assert timings.num_accepted_tokens == 60 - len(engine.events[1])
    stats = engine.scheduler.stats()
    assert stats.num_draft_steps >= timings.num_draft_steps > 0
    assert stats.num_accepted_tokens == 120 - len(engine.events[0]) - len(engine.events[1])


def test_the_executors_drafts_come_back_in_the_next_plan() -> None:
    engine = Engine(speculator=speculative(max_executor_drafts=4))
    add = make_add(1, prompt(6), max_tokens=60)
    engine.add(add)
    plans = []
    while engine.scheduler.has_work:
        plans.append(engine.step())
    engine.assert_as_alone(add)
    assert len(plans) < 30
    assert any(plan.num_drafts and plan.num_samples[0] > 1 for plan in plans)


def test_drafts_never_push_anybody_out() -> None:
    adds = [make_add(i, prompt(8, first=i * 100), max_tokens=25) for i in range(2)]
    outputs = {add.request_id: expected(add, 1000)[0] for add in adds}
    engine = Engine(num_blocks=16, block_size=4, speculator=RandomDrafts(outputs, 1000, 0))
    for add in adds:
        engine.add(add)
    engine.run()
    for add in adds:
        engine.assert_as_alone(add)
    assert engine.scheduler.stats().num_accepted_tokens > 10
    assert engine.scheduler.stats().num_preemptions == 0


# --- anything


@st.composite
def adds(
    draw: st.DrawFn, request_id: int, capacity: int, earlier: list[list[int]], generated: int
) -> Add:
    """Prompts out of few prefixes, or `earlier` texts as in a conversation, so that they share
    blocks; all fit into the pool alone. `generated`: the kind of new tokens."""
    family = draw(st.sampled_from([0, 0, 500]))
    prefix = draw(st.sampled_from([prompt(capacity, family), *earlier]))
    shared = draw(st.integers(0, min(capacity - 2, len(prefix))))
    tail = draw(st.lists(st.integers(0, 3), min_size=1, max_size=max(1, capacity - shared - 1)))
    prompt_ids = (prefix[:shared] + tail)[: capacity - 1]
    add = make_add(
        request_id,
        prompt_ids,
        draw(st.integers(1, capacity - len(prompt_ids) + 1)),
        priority=draw(st.integers(0, 1)),
        cache_salt=draw(st.sampled_from(["", "", "x"])),
        stop_token_ids=draw(st.sampled_from([frozenset[int](), frozenset({3, 7})])),
        min_tokens=draw(st.integers(0, 3)),
        prompt_logprobs=draw(st.sampled_from([False, False, True])),
    )
    num_done = draw(st.sampled_from([0, 0, 1, 5]))
    done = expected(add, 20, generated)[0][:-1][:num_done]
    return make_add(
        request_id,
        prompt_ids,
        add.params.max_tokens,
        output_ids=done,
        priority=add.priority,
        cache_salt=add.cache_salt,
        stop_token_ids=add.params.stop_token_ids,
        min_tokens=add.params.min_tokens,
        prompt_logprobs=add.params.prompt_logprobs,
    )


class EngineMachine(RuleBasedStateMachine):
    """Any sequence of add, step, abort and engine deaths, in pools that are always too small."""

    @rule(data=st.data())
    @precondition(lambda self: not hasattr(self, "engine"))
    def start(self, data: st.DataObject) -> None:
        self.sizes = data.draw(
            st.fixed_dictionaries(
                {
                    "num_blocks": st.integers(3, 12),
                    "block_size": st.integers(1, 4),
                    "budget": st.integers(1, 20),
                    "max_num_seqs": st.integers(1, 5),
                    "prefix_caching": st.sampled_from([True, True, False]),
                    "distinguishes_prompts": st.booleans(),
                }
            )
        )
        self.speculates = data.draw(st.sampled_from([True, True, False]))
        self.generated = GENERATED if self.sizes["distinguishes_prompts"] else 0
        self.outputs: dict[int, list[int]] = {}
        self.texts: list[list[int]] = []
        self.engine = self.new_engine()
        self.live: dict[int, Add] = {}
        self.emitted: dict[int, list[int]] = {}
        self.count = 0

    def new_engine(self) -> Engine:
        drafts = RandomDrafts(self.outputs, vocab_size=20, seed=len(self.outputs))
        speculator = drafts if self.speculates else None
        return Engine(**self.sizes, vocab_size=20, speculator=speculator)

    @rule(data=st.data())
    @precondition(lambda self: hasattr(self, "engine"))
    def add(self, data: st.DataObject) -> None:
        capacity = self.sizes["num_blocks"] * self.sizes["block_size"]
        add = data.draw(adds(self.count, capacity, self.texts[-3:], self.generated))
        self.count += 1
        self.live[add.request_id] = add
        self.outputs[add.request_id] = expected(add, 20, self.generated)[0]
        self.texts.append(add.prompt_ids + self.outputs[add.request_id])
        self.emitted[add.request_id] = list(add.output_ids)
        self.engine.add(add)

    @rule(num_steps=st.integers(1, 8))
    @precondition(lambda self: hasattr(self, "engine"))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            if self.engine.scheduler.has_work:
                self.engine.step()
                self.collect()

    def collect(self) -> None:
        for request_id, events in self.engine.events.items():
            for event in events:
                add = self.live[request_id]
                assert event.error is None
                if event.prompt_logprobs:
                    assert not self.emitted[request_id]
                    assert event.prompt_logprobs == expected_prompt_logprobs(add.prompt_ids)
                self.emitted[request_id] += event.token_ids
                if event.finish_reason:
                    tokens, reason = expected(add, 20, self.generated)
                    assert (self.emitted[request_id], event.finish_reason) == (tokens, reason)
                    del self.live[request_id]
            events.clear()

    @rule(data=st.data())
    @precondition(lambda self: getattr(self, "live", None))
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.live)))
        free = self.engine.scheduler.pool.num_free
        self.engine.scheduler.abort(request_id)
        assert self.engine.scheduler.pool.num_free >= free
        del self.live[request_id]

    @rule()
    @precondition(lambda self: getattr(self, "live", None))
    def die_and_resume(self) -> None:
        self.engine = self.new_engine()
        for request_id, add in self.live.items():
            params = {name: getattr(add.params, name) for name in
                      ("stop_token_ids", "min_tokens", "prompt_logprobs")}  # fmt: skip
            self.engine.add(
                make_add(
                    request_id,
                    add.prompt_ids,
                    add.params.max_tokens,
                    output_ids=self.emitted[request_id],
                    priority=add.priority,
                    cache_salt=add.cache_salt,
                    **params,
                )
            )

    @invariant()
    def is_consistent(self) -> None:
        if hasattr(self, "engine"):
            self.engine.scheduler.check()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(5000):
            if not self.engine.scheduler.has_work:
                break
            self.engine.step()
            self.collect()
        assert not self.live, "requests that never ended"
        self.engine.scheduler.check()
        assert self.engine.scheduler.pool.num_free == self.sizes["num_blocks"]


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=80, stateful_step_count=25)


@settings(max_examples=40)
@given(st.data(), st.integers(1, 6), st.integers(1, 4), st.integers(1, 12))
def test_what_fits_alone_completes(
    data: st.DataObject, num_blocks: int, block_size: int, budget: int
) -> None:
    capacity = num_blocks * block_size
    length = data.draw(st.integers(1, capacity))
    engine = Engine(num_blocks=num_blocks, block_size=block_size, budget=budget)
    requests = [make_add(i, prompt(length), capacity - length + 1) for i in range(3)]
    for add in requests:
        engine.add(add)
    engine.run()
    for add in requests:
        engine.assert_as_alone(add)
