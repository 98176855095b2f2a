"""Plans of every kind give the tokens that full recomputation, one request at a time, gives."""

import random
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.runner.batch import BatchBuffers
from headrace.runner.drawing import Drawing
from headrace.runner.executor import ModelExecutor
from headrace.runner.sampler import Sampler
from headrace.types import RowOutput, SamplingParams, StepPlan
from tests.runner.rows import CPU, TWINS, row_start, sample
from tests.runner.toy import VOCAB_SIZE, DrawingToyModel, ToyModel

NUM_ROWS, NUM_BLOCKS, MAX_LENGTH = 4, 64, 40


def executor_of(model: ToyModel) -> ModelExecutor:
    buffers = BatchBuffers(64, NUM_ROWS, MAX_LENGTH // model.block_size, model.block_size, CPU)
    sampler, drawing = Sampler(NUM_ROWS, TWINS), None
    if isinstance(model, DrawingToyModel):
        drawing = model.drawing
        sampler.expect(drawing)
    return ModelExecutor(model, buffers, sampler, drawing=drawing)


@dataclass
class Request:
    prompt: list[int]
    params: SamplingParams
    output: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    prompt_top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    row: int = -1
    computed: int = 0
    blocks: list[int] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return self.prompt + self.output

    @property
    def is_done(self) -> bool:
        return len(self.output) >= self.params.max_tokens


def alone(request: Request) -> list[int]:
    """The oracle: recompute everything for every token."""
    model = ToyModel()
    token_ids = list(request.prompt)
    for _ in range(request.params.max_tokens):
        logits = model.logits_of(token_ids)[-1:]
        start = row_start(0, request.params, token_ids, len(request.prompt))
        token_ids.append(int(sample(TWINS, logits, [start]).token_ids[0]))
    return token_ids[len(request.prompt) :]


class Driver:
    """A careless scheduler: random rows, chunks, blocks, drafts and preemptions."""

    def __init__(self, requests: list[Request], seed: int, model: ToyModel) -> None:
        self.model = model
        self.executor = executor_of(self.model)
        self.random = random.Random(seed)
        self.requests = requests
        self.free_blocks = list(range(NUM_BLOCKS))
        self.random.shuffle(self.free_blocks)
        self.free_rows = list(range(NUM_ROWS))
        self.ended: list[int] = []

    def run(self) -> None:
        while not all(request.is_done for request in self.requests):
            self.step()

    def release(self, request: Request) -> None:
        self.free_blocks += request.blocks
        self.free_rows.append(request.row)
        self.ended.append(request.row)
        request.row, request.computed, request.blocks = -1, 0, []

    def step(self) -> None:
        plan = StepPlan(
            ended=[], started=[], rows=[], starts=[], counts=[], token_ids=[], new_blocks=[],
            num_samples=[],
        )  # fmt: skip
        for request in self.requests:
            if request.row >= 0 and self.random.random() < 0.05:
                self.release(request)
        plan.ended, self.ended = self.ended, []
        scheduled = [r for r in self.requests if not r.is_done and self.random.random() < 0.8]
        scheduled = [request for request in scheduled if self.schedule(request, plan)]
        output = self.executor.execute(plan)
        assert len(output.rows) == len(scheduled)
        for index, (request, row) in enumerate(zip(scheduled, output.rows, strict=True)):
            self.update(request, row, plan.counts[index], plan.num_samples[index])

    def schedule(self, request: Request, plan: StepPlan) -> bool:
        if request.row < 0:
            if not self.free_rows:
                return False
            request.row = self.free_rows.pop(self.random.randrange(len(self.free_rows)))
            request.prompt_logprobs, request.prompt_top_logprobs = [], []
            plan.started.append(
                row_start(request.row, request.params, request.token_ids, len(request.prompt))
            )
        pending = len(request.token_ids) - request.computed
        count = self.random.randint(1, min(pending, 7))
        drafts: list[int] = []
        if count == pending:
            # The first is right, the second a guess.
            right = alone(request)[len(request.output) :][:1]
            drafts = [*right, self.random.randrange(VOCAB_SIZE)][: self.random.randrange(3)]
        end = request.computed + count + len(drafts)
        num_blocks = -(-end // self.model.block_size)
        blocks = [self.free_blocks.pop() for _ in range(num_blocks - len(request.blocks))]
        request.blocks += blocks
        plan.rows.append(request.row)
        plan.starts.append(request.computed)
        plan.counts.append(count + len(drafts))
        plan.token_ids += request.token_ids[request.computed : request.computed + count] + drafts
        plan.new_blocks.append(blocks)
        plan.num_samples.append(1 + len(drafts) if count == pending else 0)
        return True

    def update(self, request: Request, row: RowOutput, count: int, num_samples: int) -> None:
        assert row.error is None
        request.prompt_logprobs += row.prompt_logprobs or []
        request.prompt_top_logprobs += row.prompt_top_logprobs or []
        if not num_samples:
            assert row.token_ids == []
            request.computed += count
            return
        assert 1 <= len(row.token_ids) <= num_samples
        request.computed += count - num_samples + len(row.token_ids)
        request.output += row.token_ids
        request.logprobs += row.logprobs or []
        if request.is_done:
            self.release(request)


requests_strategy = st.builds(
    Request,
    prompt=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=20),
    params=st.builds(
        SamplingParams,
        max_tokens=st.integers(1, 8),
        temperature=st.sampled_from([0.0, 1.0]),
        top_p=st.sampled_from([1.0, 0.8]),
        seed=st.integers(0, 2**64 - 1),
        presence_penalty=st.sampled_from([0.0, 5.0]),
        num_top_logprobs=st.sampled_from([None, 2]),
        prompt_logprobs=st.booleans(),
        watermark=st.booleans(),
    ),
)


@pytest.mark.parametrize("make_model", [ToyModel, DrawingToyModel])
@settings(max_examples=12)
@given(requests=st.lists(requests_strategy, min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_any_schedule_gives_the_tokens_of_running_alone(
    make_model: type[ToyModel], requests: list[Request], seed: int
) -> None:
    requests = [Request(request.prompt, request.params) for request in requests]
    expected = [alone(request) for request in requests]
    Driver(requests, seed, make_model(NUM_BLOCKS)).run()
    for request, tokens in zip(requests, expected, strict=True):
        output = request.output[: len(tokens)]
        assert output == tokens
        logprobs = ToyModel().logits_of(request.token_ids).log_softmax(1)
        num_prompt = len(request.prompt)
        if request.params.num_top_logprobs is not None:
            wanted = [float(logprobs[num_prompt - 1 + i, t]) for i, t in enumerate(request.output)]
            assert request.logprobs == pytest.approx(wanted, abs=1e-4)
        if request.params.prompt_logprobs:
            wanted = [float(logprobs[i, t]) for i, t in enumerate(request.prompt[1:])]
            assert request.prompt_logprobs == pytest.approx(wanted, abs=1e-4)
            num_top = request.params.num_top_logprobs or 0
            for at, top in enumerate(request.prompt_top_logprobs):
                likeliest = logprobs[at].topk(num_top)
                assert [id for id, _ in top] == likeliest.indices.tolist()
                assert [value for _, value in top] == pytest.approx(
                    likeliest.values.tolist(), abs=1e-4
                )
            assert len(request.prompt_top_logprobs) == num_prompt - 1


def decode_plan(rows: list[int], params: SamplingParams) -> StepPlan:
    return StepPlan(
        ended=[], started=[row_start(row, params, [row + 1]) for row in rows], rows=rows,
        starts=[0] * len(rows), counts=[1] * len(rows), token_ids=[row + 1 for row in rows],
        new_blocks=[[row] for row in rows], num_samples=[1] * len(rows),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("params", "is_drawn_in_pass"),
    [
        (SamplingParams(max_tokens=1), True),
        (SamplingParams(max_tokens=1, top_k=3, num_top_logprobs=2), True),
        (SamplingParams(max_tokens=1, presence_penalty=1.0), False),
    ],
)
def test_tokens_are_drawn_in_the_pass_unless_logits_change(
    params: SamplingParams, is_drawn_in_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    run = Drawing.run
    monkeypatch.setattr(Drawing, "run", lambda self: calls.append(1) or run(self))
    executor_of(DrawingToyModel()).execute(decode_plan([0, 2, 1], params))
    assert calls == ([] if is_drawn_in_pass else [1])


def test_a_row_with_broken_logits_fails_alone() -> None:
    model = ToyModel()
    model.embedding[3] = torch.nan
    rows = executor_of(model).execute(decode_plan([0, 2, 1], SamplingParams(max_tokens=1))).rows
    assert [bool(row.error) for row in rows] == [False, True, False]
    assert [len(row.token_ids) for row in rows] == [1, 0, 1]


def test_a_plan_without_rows_runs_nothing() -> None:
    plan = decode_plan([], SamplingParams(max_tokens=1))
    plan.ended = [1]
    assert executor_of(ToyModel()).execute(plan).rows == []
