"""Speculation on and off give the same bits, whatever else a request asks for.

The real scheduler, grammars, executor, sampler and CPU kernels over a tiny random model. Plain runs
are alone in the batch with room for everything; speculative ones share small batches, chunks and
pools, with drafts that are partly right.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import Settings
from headrace.engine.constraint import Constraint
from headrace.engine.grammar import GrammarCompiler
from headrace.engine.request import Request
from headrace.engine.scheduler import Scheduler
from headrace.engine.speculation.prompt_lookup import PromptLookup
from headrace.engine.speculation.speculator import Speculator
from headrace.runner.build import build_executor
from headrace.runner.executor import ModelExecutor
from headrace.types import Add, FinishReason, Grammar, SamplingParams, TokenEvent
from tests.engine.random_drafts import RandomDrafts
from tests.engine.vocabulary import EOS, ByteVocabulary

VOCAB_SIZE, BLOCK_TOKENS = 260, 32
JSON = '{"type":"object","properties":{"a":{"type":"boolean"},"bcd":{"enum":["xyz","w"]}},'
JSON += '"required":["a","bcd"],"additionalProperties":false}'
SHARED_BLOCK = [*b"The headrace brings water to it."]
GRAMMARS = [
    Grammar(kind="json", source=JSON),
    Grammar(kind="regex", source="(ab|c)+ 2001-[0-9]{2}"),
]
COMPILER = GrammarCompiler(ByteVocabulary, VOCAB_SIZE)


@dataclass
class Result:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_logprobs: list[float | None] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def take(self, event: TokenEvent) -> None:
        assert event.error is None
        assert self.finish_reason is None
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs or []
        self.top_logprobs += event.top_logprobs or []
        self.prompt_logprobs += event.prompt_logprobs or []
        self.finish_reason = event.finish_reason


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> ModelExecutor:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            initializer_range=0.2,
        )
    ).save_pretrained(folder)  # fmt: skip
    options = Settings(device="cpu", cpu_threads=1, max_batch_size=8, max_batch_total_tokens=1024)
    return build_executor(options, open_checkpoint(folder), lambda *_: None)[0]


def run(
    executor: ModelExecutor, adds: list[Add], scheduler: Scheduler, lookahead: int
) -> list[Result]:
    results = {add.request_id: Result(list(add.output_ids)) for add in adds}
    for add in adds:
        constraint = None
        if add.params.grammar is not None:
            matcher = COMPILER.matcher(add.params.grammar)
            constraint = Constraint(matcher, add.output_ids, lambda job: job(), lookahead)
        assert scheduler.add(add, constraint) is None
    while scheduler.has_work:
        plan = scheduler.schedule()
        for event in scheduler.update(plan, executor.execute(plan), 1.0 + 0.01 * sum(plan.counts)):
            results[event.request_id].take(event)
        scheduler.check()
    return list(results.values())


def plain(executor: ModelExecutor, add: Add) -> Result:
    scheduler = Scheduler(
        num_blocks=32, block_size=BLOCK_TOKENS, max_batch_prefill_tokens=512, max_num_seqs=1
    )
    (result,) = run(executor, [add], scheduler, lookahead=0)
    return result


sampling = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 40),
    min_tokens=st.sampled_from([0, 0, 6]),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.7]),
    typical_p=st.sampled_from([1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    logit_bias=st.sampled_from([{}, {97: 4.0, 5: -100.0}]),
    watermark=st.sampled_from([False, False, True]),
    seed=st.integers(0, 2**64 - 1),
    stop_token_ids=st.sampled_from([frozenset[int](), frozenset(range(0, 256, 9))]),
    num_top_logprobs=st.sampled_from([None, None, 0, 3]),
    prompt_logprobs=st.sampled_from([False, False, True]),
)


@st.composite
def requests(draw: st.DrawFn, request_id: int) -> Add:
    params = draw(sampling)
    if draw(st.booleans()):
        fields = {name: getattr(params, name) for name in params.__struct_fields__}
        fields |= {"grammar": draw(st.sampled_from(GRAMMARS)), "min_tokens": 0}
        fields |= {"stop_token_ids": frozenset({EOS}), "max_tokens": 60}
        params = SamplingParams(**fields)
    motif = draw(st.lists(st.integers(0, 255), min_size=1, max_size=6))
    prompt_ids = (motif * 20)[: draw(st.integers(1, 50))]
    if draw(st.booleans()):  # so that the prefix cache has something to find
        prompt_ids = SHARED_BLOCK + prompt_ids[:30]
    return Add(
        request_id=request_id,
        prompt_ids=prompt_ids,
        params=params,
        cache_salt=draw(st.sampled_from(["", "x"])),
    )


@settings(max_examples=20)
@given(st.data())
@pytest.mark.parametrize("drafter", ["random", "lookup"])
def test_speculation_changes_no_bit(
    executor: ModelExecutor, drafter: str, data: st.DataObject
) -> None:
    adds = [data.draw(requests(i)) for i in range(data.draw(st.integers(1, 4)))]
    expected = [plain(executor, add) for add in adds]
    speculator = Speculator(PromptLookup(), max_num_drafts=8)
    if drafter == "random":
        outputs = {i: result.token_ids for i, result in enumerate(expected)}
        speculator = RandomDrafts(outputs, 256, data.draw(st.integers(0, 99)))
        speculator.has_executor = False
    scheduler = Scheduler(
        num_blocks=data.draw(st.sampled_from([4, 6, 32])),
        block_size=BLOCK_TOKENS,
        max_batch_prefill_tokens=data.draw(st.sampled_from([7, 40, 512])),
        max_num_seqs=data.draw(st.integers(1, 4)),
        speculator=speculator,
    )
    results = run(executor, adds, scheduler, lookahead=8)
    assert results == expected


def test_a_resumed_request_goes_on_with_the_same_bits(executor: ModelExecutor) -> None:
    params = SamplingParams(max_tokens=60, seed=4, grammar=GRAMMARS[0], frequency_penalty=0.5,
                            stop_token_ids=frozenset({EOS}))  # fmt: skip
    add = Add(request_id=0, prompt_ids=[1, 2, 3], params=params)
    expected = plain(executor, add)
    for done in range(1, len(expected.token_ids) - 1, 5):
        output_ids = expected.token_ids[:done]
        resumed = Add(request_id=0, prompt_ids=[1, 2, 3], params=params, output_ids=output_ids)
        scheduler = Scheduler(
            num_blocks=32, block_size=BLOCK_TOKENS, max_batch_prefill_tokens=64, max_num_seqs=1,
            speculator=Speculator(PromptLookup(), 8),
        )  # fmt: skip
        assert run(executor, [resumed], scheduler, lookahead=8) == [expected]
        assert scheduler.stats().num_forced_tokens > 0


class SameDraft(RandomDrafts):
    """One token behind whatever there is."""

    def __init__(self, draft_id: int) -> None:
        super().__init__({}, VOCAB_SIZE, 0)
        self.draft_id = draft_id
        self.has_executor = False

    def draft(self, requests: list[Request], num_prompt_tokens: int, room: int) -> None:
        for request in requests:
            request.draft_ids = [self.draft_id]


def check_distribution(
    executor: ModelExecutor,
    make_speculator: Callable[[], Speculator],
    rounds: int,
    prompt_ids: Sequence[int] = (7, 9),
) -> Counter[str]:
    """Second tokens of eight requests a round against the softmax; returns how many tokens were
    drafted and accepted."""
    params = {"max_tokens": 3, "temperature": 1.0, "top_k": 4, "num_top_logprobs": 4}
    chance = random.Random(0)
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    logprobs: dict[int, dict[int, float]] = {}
    totals: Counter[str] = Counter()
    for _ in range(rounds):
        adds = [
            Add(request_id=i, prompt_ids=[*prompt_ids],
                params=SamplingParams(**params, seed=chance.getrandbits(64)))
            for i in range(8)
        ]  # fmt: skip
        scheduler = Scheduler(
            num_blocks=32, block_size=BLOCK_TOKENS, max_batch_prefill_tokens=64, max_num_seqs=8,
            speculator=make_speculator(),
        )  # fmt: skip
        for result in run(executor, adds, scheduler, lookahead=0):
            first, second = result.token_ids[:2]
            counts[first][second] += 1
            logprobs[first] = dict(result.top_logprobs[1])
        stats = scheduler.stats()
        totals.update(drafted=stats.num_draft_tokens, accepted=stats.num_accepted_tokens)
    for first, counter in counts.items():
        weights = torch.tensor(list(logprobs[first].values())).exp()
        means = (counter.total() * weights / weights.sum()).tolist()
        assert counter.keys() <= logprobs[first].keys()
        chi_square = sum(
            (counter[token] - mean) ** 2 / mean
            for token, mean in zip(logprobs[first], means, strict=True)
        )
        assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001
    return totals


def test_samples_without_a_seed_keep_their_distribution(executor: ModelExecutor) -> None:
    """Second tokens, where a draft of one of them was verified."""
    params = SamplingParams(max_tokens=3, temperature=0.0, top_k=4, num_top_logprobs=4)
    greedy = plain(executor, Add(request_id=0, prompt_ids=[7, 9], params=params))
    totals = check_distribution(executor, lambda: SameDraft(greedy.token_ids[1]), rounds=250)
    assert 200 < totals["accepted"] < 1800


def test_samples_behind_looked_up_tokens_keep_their_distribution(executor: ModelExecutor) -> None:
    """The same with drafts from the prompt and from recent outputs, as the controller wants."""
    speculator = Speculator(PromptLookup(), 8)
    prompt_ids = [7, 9, 7, 9, 7, 9]
    totals = check_distribution(executor, lambda: speculator, 250, prompt_ids)
    assert 100 < totals["accepted"] < totals["drafted"] - 100
