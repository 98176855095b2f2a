"""Each of the executor's drafters changes no bit, whatever a request asks for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.request import Request
from headrace.engine.scheduler import Scheduler
from headrace.runner.executor import ModelExecutor
from headrace.types import Add, SamplingParams, StepPlan
from tests.engine.random_drafts import RandomDrafts
from tests.engine.speculation.test_lossless import (
    BLOCK_TOKENS,
    check_distribution,
    plain,
    requests,
    run,
)
from tests.runner.drafting.drafters import KINDS, VOCAB_SIZE, executor_with, make_model

Executors = Callable[[str | None], ModelExecutor]


@pytest.fixture(scope="module")
def executors(tmp_path_factory: pytest.TempPathFactory) -> Executors:
    """By kind of drafter, on the CPU kernels."""
    folder: Path = tmp_path_factory.mktemp("checkpoints")
    make_model(folder / "base")
    made: dict[str | None, ModelExecutor] = {}

    def executor(kind: str | None) -> ModelExecutor:
        if kind not in made:
            made[kind] = executor_with(kind, folder, folder / "base")[0]
        return made[kind]

    return executor


class ExecutorDrafts(RandomDrafts):
    """The executor's drafts only, in some steps or in all."""

    def __init__(self, seed: int, *, always: bool = False) -> None:
        super().__init__({}, VOCAB_SIZE, seed)
        self.always = always

    @property
    def asks_executor(self) -> bool:
        return self.always or self.chance.random() < 0.6

    def draft(self, requests: list[Request], num_prompt_tokens: int, room: int) -> None:
        for request in requests:
            limit = request.max_length - len(request.token_ids) - 1
            request.draft_ids, request.executor_draft_ids = request.executor_draft_ids[:limit], []

    def num_drafts_to_ask(self, plan: StepPlan, rows: list[Request | None]) -> dict[int, int]:
        return {
            index: self.chance.randrange(1, 6)
            for index, count in enumerate(plan.num_samples)
            if count and (self.always or self.chance.random() < 0.8)
        }


def small_scheduler(data: st.DataObject, speculator: RandomDrafts) -> Scheduler:
    return Scheduler(
        num_blocks=data.draw(st.sampled_from([4, 6, 32])),
        block_size=BLOCK_TOKENS,
        max_batch_prefill_tokens=data.draw(st.sampled_from([7, 40, 512])),
        max_num_seqs=data.draw(st.integers(1, 4)),
        speculator=speculator,
    )


@settings(max_examples=6)
@given(st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_drafts_change_no_bit(executors: Executors, kind: str, data: st.DataObject) -> None:
    adds = [data.draw(requests(i)) for i in range(data.draw(st.integers(1, 4)))]
    expected = [plain(executors(None), add) for add in adds]
    scheduler = small_scheduler(data, ExecutorDrafts(data.draw(st.integers(0, 99))))
    assert run(executors(kind), adds, scheduler, lookahead=8) == expected


@settings(max_examples=15)
@given(st.data())
def test_a_model_that_drafts_for_itself_is_always_right(
    executors: Executors, data: st.DataObject
) -> None:
    """Through chunks, shared prefixes, preemption and steps without drafts: whatever is missing or
    stale in the draft model's cache would show as a wrong draft."""
    adds = []
    for i in range(data.draw(st.integers(1, 4))):
        add = data.draw(requests(i))
        fields = {name: getattr(add.params, name) for name in add.params.__struct_fields__}
        params = SamplingParams(**fields | {"grammar": None})
        adds.append(Add(request_id=i, prompt_ids=add.prompt_ids, params=params))
    scheduler = small_scheduler(data, ExecutorDrafts(data.draw(st.integers(0, 99))))
    run(executors("same model"), adds, scheduler, lookahead=0)
    stats = scheduler.stats()
    assert stats.num_accepted_tokens == stats.num_draft_tokens


def test_shared_prefixes_are_drafted_from(executors: Executors) -> None:
    """The second request finds the first one's keys and values in both caches."""
    scheduler = Scheduler(
        num_blocks=32, block_size=BLOCK_TOKENS, max_batch_prefill_tokens=512, max_num_seqs=1,
        speculator=ExecutorDrafts(0, always=True),
    )  # fmt: skip
    adds = [
        Add(request_id=i, prompt_ids=[*range(70), i], params=SamplingParams(max_tokens=40, seed=i))
        for i in range(3)
    ]
    run(executors("same model"), adds, scheduler, lookahead=0)
    stats = scheduler.stats()
    assert stats.prefix_cache_hits == 2 * 64
    assert stats.num_accepted_tokens == stats.num_draft_tokens > 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_samples_keep_their_distribution(executors: Executors, kind: str) -> None:
    """Second tokens, all of which were drafted."""
    totals = check_distribution(executors(kind), lambda: ExecutorDrafts(0, always=True), rounds=125)
    assert totals["drafted"] >= 1000
