"""Against transformers' processors, against the softmax, and against itself in other batches."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import MinNewTokensLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor

from headrace.kernels import Kernels
from headrace.kernels import load as load_kernels
from headrace.runner.drawing import Drawing
from headrace.runner.masks import Masks
from headrace.runner.sample_positions import SamplePositions
from headrace.runner.sampler import Sampler
from headrace.types import RowOutput, RowStart, SamplingParams, StepPlan
from tests.runner.rows import TWINS, row_start, sample

VOCAB_SIZE = 3000
KERNELS = {kernels.name: kernels for kernels in (load_kernels(), TWINS)}
with_kernels = pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)


def random_logits(num_rows: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 3


params_strategy = st.builds(
    SamplingParams,
    max_tokens=st.just(9),
    min_tokens=st.sampled_from([0, 3]),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 40, 100, 2000]),
    top_p=st.sampled_from([1.0, 1.0, 0.3, 0.9, 0.999]),
    typical_p=st.sampled_from([1.0, 1.0, 0.2, 0.95]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    presence_penalty=st.sampled_from([0.0, -0.4]),
    logit_bias=st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.floats(-9, 9), max_size=3),
    seed=st.integers(0, 2**64 - 1),
    stop_token_ids=st.frozensets(st.integers(0, VOCAB_SIZE - 1), max_size=2),
    num_top_logprobs=st.sampled_from([None, 0, 5]),
    watermark=st.booleans(),
)


@with_kernels
@settings(max_examples=30)
@given(st.lists(params_strategy, min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_a_row_is_bitwise_the_same_alone_and_in_any_batch(kernels: Kernels, params, random) -> None:
    logits = random_logits(len(params), random.randrange(1000))
    history = [random.choices(range(VOCAB_SIZE), k=6) for _ in params]
    rows = random.sample(range(10), len(params))
    starts = [row_start(rows[i], params[i], history[i], 3) for i in range(len(params))]
    together = sample(kernels, logits, starts)
    for i, start in enumerate(starts):
        alone = sample(kernels, logits[i : i + 1], [start])
        assert together.token_ids[i] == alone.token_ids[0]
        assert together.logprobs.get(i) == alone.logprobs.get(0)
        assert together.top_logprobs.get(i) == alone.top_logprobs.get(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@with_kernels
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_rows_stay_the_same_with_threads_and_a_large_vocabulary(
    kernels: Kernels, spread: float
) -> None:
    """Where torch would split a single row's reductions between threads."""
    fields: list[dict[str, float]] = [
        {"typical_p": 0.9}, {"typical_p": 0.2}, {"top_p": 0.9}, {}, {"top_k": 9, "typical_p": 0.5},
        {"top_p": 0.99, "min_p": 0.01},
    ]  # fmt: skip
    logits = random_logits(len(fields), 4, 60_000) * spread
    params = [SamplingParams(max_tokens=1, num_top_logprobs=3, **extra) for extra in fields]
    together = sample(kernels, logits, [row_start(row, p) for row, p in enumerate(params)])
    for row, p in enumerate(params):
        alone = sample(kernels, logits[row : row + 1], [row_start(0, p)])
        assert alone.token_ids[0] == together.token_ids[row]
        assert alone.top_logprobs[0] == together.top_logprobs[row]


@with_kernels
def test_greedy_takes_the_lowest_id_among_equals(kernels: Kernels) -> None:
    logits = random_logits(3)
    logits[1, [2000, 17, 400]] = 99.0
    samples = sample(
        kernels,
        logits,
        [row_start(r, SamplingParams(max_tokens=1, temperature=0)) for r in (0, 1, 2)],
    )
    assert samples.token_ids.tolist() == [int(logits[0].argmax()), 17, int(logits[2].argmax())]


@with_kernels
def test_rows_of_an_expected_buffer_are_drawn_from_like_any_others(kernels: Kernels) -> None:
    """Whatever was drawn from before, by more rows or fewer."""
    buffer, num_rows = random_logits(6, 3, 40), 6
    sampler = Sampler(num_rows, kernels)
    for row in range(num_rows):
        sampler.start(row_start(row, SamplingParams(max_tokens=1, seed=row, temperature=1.5)))
    sampler.expect(Drawing(kernels, buffer))
    for count in (3, 6, 1, 5):
        rows = np.arange(num_rows - count, num_rows)
        at = SamplePositions(np.arange(count), rows, rows + 7 * count)
        expected = sampler.sample(buffer[:count].clone(), at)
        samples = sampler.sample(buffer[:count], at)
        assert samples.token_ids.tolist() == expected.token_ids.tolist()
        assert samples.is_valid.tolist() == [True] * count
    assert len(sampler._drawings) == 1


@with_kernels
@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.2}, {"typical_p": 0.7}],
    ids=str,
)
def test_samples_follow_the_softmax(kernels: Kernels, fields: dict[str, float]) -> None:
    """20000 positions of one request; chi-square against the cut, renormalised softmax."""
    num_samples, vocab_size = 20_000, 12
    logits = random_logits(1, 5, vocab_size) / 4
    params = SamplingParams(max_tokens=1, seed=3, **fields)
    sampler = Sampler(1, kernels)
    sampler.start(row_start(0, params))
    at = SamplePositions(np.empty(0), np.zeros(num_samples, np.int64), np.arange(num_samples))
    drawn = sampler.sample(logits.repeat(num_samples, 1), at).token_ids
    expected = expected_probabilities(logits[0].double() / params.temperature, params)
    counts = np.bincount(drawn, minlength=vocab_size)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi_square = (
        (counts - num_samples * expected)[kept] ** 2 / (num_samples * expected[kept])
    ).sum()
    freedom = kept.sum() - 1
    assert chi_square < freedom + 6 * np.sqrt(2 * freedom)
    pairs = np.histogram2d(drawn[:-1], drawn[1:], bins=[np.arange(vocab_size + 1)] * 2)[0]
    wanted = num_samples * np.outer(expected, expected)
    common = wanted > 5
    chi_square = ((pairs - wanted)[common] ** 2 / wanted[common]).sum()
    assert chi_square < common.sum() + 6 * np.sqrt(2 * common.sum())


def expected_probabilities(scores: Tensor, params: SamplingParams) -> np.ndarray:
    """Written out for one of top_k, top_p, min_p, typical_p at a time."""
    p = scores.softmax(0).numpy()
    key = np.abs(-np.log(p) - (-(p * np.log(p)).sum())) if params.typical_p < 1 else -p
    order = np.argsort(key)
    mass = min(params.top_p, params.typical_p)
    count = int((np.cumsum(p[order]) < mass).sum()) + 1 if mass < 1 else len(p)
    keep = order[: params.top_k or count]
    cut = np.zeros_like(p)
    cut[keep] = p[keep]
    cut[cut < params.min_p * p.max()] = 0
    return cut / cut.sum()


def test_penalties_bias_and_minimum_are_those_of_the_references() -> None:
    prompt, output = [5, 6, 7, 7], [7, 8, 8, 8, 9]
    params = SamplingParams(
        max_tokens=99, min_tokens=6, temperature=0, repetition_penalty=1.4, frequency_penalty=0.5,
        presence_penalty=0.25, logit_bias={11: 2.5, 8: -1.0}, stop_token_ids=frozenset({12, 13}),
    )  # fmt: skip
    logits = random_logits(1)
    history = torch.tensor([prompt + output])
    expected = RepetitionPenaltyLogitsProcessor(1.4)(history, logits.clone())
    for token in set(output):
        expected[0, token] -= 0.5 * output.count(token) + 0.25
    expected[0, 11] += 2.5
    expected[0, 8] -= 1.0
    minimum = MinNewTokensLengthLogitsProcessor(len(prompt), 6, [12, 13], device="cpu")
    expected = minimum(history, expected)
    adjusted = adjusted_logits(logits, row_start(0, params, prompt + output, len(prompt)))
    torch.testing.assert_close(adjusted, expected)


def adjusted_logits(logits: Tensor, start: RowStart, later: tuple[int, ...] = ()) -> Tensor:
    """What the sampler chooses from, after `later` tokens were accepted one by one."""
    sampler = Sampler(start.row + 1, TWINS)
    sampler.start(start)
    for token in later:
        sampler.accept([start.row], [RowOutput(token_ids=[token])])
    changed = logits.clone()
    at = SamplePositions(
        np.empty(0), np.array([start.row]), np.array([len(start.token_ids) + len(later)])
    )
    sampler.sample(changed, at)
    return changed


def test_minimum_ends_at_its_length() -> None:
    params = SamplingParams(
        max_tokens=9, min_tokens=2, temperature=0, stop_token_ids=frozenset({4})
    )
    logits = random_logits(1)
    forbidden = [
        bool(adjusted_logits(logits, row_start(0, params, [1] * length, 3))[0, 4].isneginf())
        for length in (3, 4, 5, 6)
    ]
    assert forbidden == [True, True, False, False]


penalized = SamplingParams(
    max_tokens=9, temperature=0, repetition_penalty=1.2, frequency_penalty=1, presence_penalty=1
)


def test_accepted_tokens_count_like_those_known_from_the_start() -> None:
    logits = random_logits(1)
    known = adjusted_logits(logits, row_start(2, penalized, [1, 2, 3, 3, 4], 2))
    accepted = adjusted_logits(logits, row_start(2, penalized, [1, 2, 3], 2), later=(3, 4))
    assert torch.equal(known, accepted)


@with_kernels
def test_positions_behind_drafts_count_the_drafts(kernels: Kernels) -> None:
    logits = random_logits(4)
    logits[2] = logits[1]
    sampler = Sampler(2, kernels)
    plain = SamplingParams(max_tokens=9, temperature=0)
    sampler.start(row_start(0, plain))
    sampler.start(row_start(1, penalized, [1, 2, 3], 2))
    at = SamplePositions(
        np.empty(0), np.array([0, 1, 1, 1]), np.array([1, 3, 4, 5]), {2: [40], 3: [40, 41]}
    )
    changed = logits.clone()
    sampler.sample(changed, at)
    for index, history in enumerate(([1, 2, 3], [1, 2, 3, 40], [1, 2, 3, 40, 41]), start=1):
        expected = adjusted_logits(logits[index : index + 1], row_start(0, penalized, history, 2))
        assert torch.equal(changed[index], expected[0])


@with_kernels
def test_a_row_that_is_taken_over_starts_clean(kernels: Kernels) -> None:
    sampler = Sampler(1, kernels)
    everything = SamplingParams(
        max_tokens=9, min_tokens=5, temperature=2.0, top_k=3, min_p=0.5, typical_p=0.3, top_p=0.3,
        repetition_penalty=2.0, presence_penalty=2.0, logit_bias={1: 99.0}, num_top_logprobs=3,
        stop_token_ids=frozenset({3}),
    )  # fmt: skip
    sampler.start(row_start(0, everything))
    sampler.start(row_start(0, SamplingParams(max_tokens=9, temperature=0)))
    logits = random_logits(1)
    changed = logits.clone()
    samples = sampler.sample(changed, SamplePositions(np.empty(0), np.array([0]), np.array([1])))
    assert torch.equal(changed, logits) and not samples.logprobs


@with_kernels
def test_logprobs_are_of_the_raw_distribution(kernels: Kernels) -> None:
    params = SamplingParams(
        max_tokens=1, temperature=0.3, top_k=2, logit_bias={7: 50.0}, num_top_logprobs=4
    )
    logits = random_logits(2)
    silent = SamplingParams(max_tokens=1, temperature=0)
    samples = sample(kernels, logits, [row_start(0, silent), row_start(1, params)])
    expected = logits[1].double().log_softmax(0)
    assert samples.token_ids[1] == 7
    assert samples.logprobs == {1: pytest.approx(float(expected[7]), abs=1e-4)}
    best_ids = expected.argsort(descending=True)[:4]
    (top,) = samples.top_logprobs.values()
    assert [token for token, _ in top] == best_ids.tolist()
    assert [value for _, value in top] == pytest.approx(expected[best_ids].tolist(), abs=1e-4)


@with_kernels
@pytest.mark.parametrize("fields", [{"temperature": 0}, {}, {"top_p": 0.9}, {"typical_p": 0.5}])
def test_a_row_without_finite_logits_fails_alone(
    kernels: Kernels, fields: dict[str, float]
) -> None:
    params = SamplingParams(max_tokens=1, **fields)
    logits = random_logits(4)
    expected = sample(kernels, logits, [row_start(r, params) for r in range(4)]).token_ids
    logits[1, 5] = torch.nan
    logits[2] = -torch.inf
    samples = sample(kernels, logits, [row_start(r, params) for r in range(4)])
    assert samples.is_valid.tolist() == [True, False, False, True]
    assert samples.token_ids[[0, 3]].tolist() == expected[[0, 3]].tolist()


@with_kernels
@pytest.mark.parametrize("fields", [{"temperature": 0}, {}, {"top_p": 0.9}, {"typical_p": 0.5}])
def test_a_mask_leaves_allowed_tokens_only(kernels: Kernels, fields: dict[str, float]) -> None:
    params = SamplingParams(max_tokens=1, **fields)
    bits = torch.zeros(1, -(-VOCAB_SIZE // 32), dtype=torch.int32)
    bits[0, 2] = 1 << 5
    logits = random_logits(2)
    free = sample(kernels, logits, [row_start(r, params) for r in range(2)])
    masks = Masks(torch.tensor([1]), bits)
    masked = sample(kernels, logits, [row_start(r, params) for r in range(2)], masks)
    assert masked.token_ids.tolist() == [free.token_ids[0], 69]


@with_kernels
def test_tiny_temperatures_are_greedy_in_effect(kernels: Kernels) -> None:
    logits = random_logits(1)
    params = SamplingParams(max_tokens=1, temperature=1e-300)
    assert sample(kernels, logits, [row_start(0, params)]).token_ids.tolist() == [
        int(logits.argmax())
    ]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 99))
def test_tokens_that_were_forced_count_for_penalties(
    forced: list[int], num_drafts: int, seed: int
) -> None:
    """Known when they are computed, never sampled; drafts behind them do not count."""
    params = SamplingParams(max_tokens=9, temperature=0.0, frequency_penalty=4.0)
    plan = StepPlan(
        ended=[], started=[], rows=[0], starts=[2], counts=[1 + len(forced) + num_drafts],
        token_ids=[7, *forced, *range(num_drafts)], new_blocks=[[]], num_samples=[1 + num_drafts],
    )  # fmt: skip
    logits = random_logits(1, seed, vocab_size=31)
    at = SamplePositions(np.array([0]), np.array([0]), np.array([3 + len(forced)]))
    follower = Sampler(1, TWINS)
    follower.start(row_start(0, params, [1, 2, 7], 2))
    follower.catch_up(plan)
    follower.catch_up(plan)
    told = Sampler(1, TWINS)
    told.start(row_start(0, params, [1, 2, 7, *forced], 2))
    choices = [sampler.sample(logits.clone(), at).token_ids for sampler in (follower, told)]
    assert choices[0] == choices[1]
    assert follower._counts[0].num_tokens == 3 + len(forced)
