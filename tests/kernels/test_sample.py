"""Sampling, against transformers' warpers with the noise of the plain formula, and itself."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from headrace.kernels import DRAW, Kernels, ops
from headrace.kernels.sampling.random import draw_keys, exponentials
from headrace.kernels.tensors import Draws

OFF = {"temperature": 1.0, "top_p": 1.0, "typical_p": 1.0, "min_p": 0.0, "top_k": 0}
CASES: list[dict[str, float]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.3},
    {"temperature": 3.0},
    {"min_p": 0.1},
    {"top_k": 1},
    {"top_k": 7, "temperature": 2.0},
    {"top_k": 700},
    {"top_k": 5000},
    {"top_p": 0.9},
    {"top_p": 0.01},
    {"top_p": 0.999, "temperature": 1.5},
    {"top_k": 40, "top_p": 0.7},
    {"typical_p": 0.2},
    {"typical_p": 0.95},
    {"top_k": 30, "top_p": 0.95, "typical_p": 0.6, "min_p": 0.02},
    {"typical_p": 0.3, "min_p": 0.5},
]


def draws_of(cases: list[dict[str, float]], position: int = 5, seed: int = 11) -> Draws:
    draws = np.zeros(len(cases), DRAW)
    for row, case in enumerate(cases):
        for name, value in {**OFF, **case}.items():
            draws[name][row] = value
        draws["seed"][row] = (seed + row * 2**60) % 2**64
        draws["position"][row] = position
    return draws


def sample(kernels: Kernels, logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    token_ids = torch.empty(len(logits), dtype=torch.int64)
    largest = torch.empty(len(logits))
    kernels.run(ops.Sample(logits, draws, token_ids, largest))
    return token_ids, largest


def top_logprobs(
    kernels: Kernels, logits: Tensor, index: list[int], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.empty(len(index), count, dtype=torch.int64)
    logprobs, normalizers = torch.empty(len(index), count), torch.empty(len(index))
    kernels.run(ops.TopLogprobs(logits, torch.tensor(index), ids, logprobs, normalizers))
    return ids, logprobs, normalizers


def random_logits(rows: int, columns: int, spread: float = 3.0) -> Tensor:
    return torch.randn(rows, columns) * spread


def warped(logits: Tensor, case: dict[str, float]) -> Tensor:
    """transformers' opinion on a row [V]."""
    case = {**OFF, **case}
    warpers = LogitsProcessorList([TemperatureLogitsWarper(case["temperature"])])
    if case["top_k"]:
        warpers.append(TopKLogitsWarper(int(case["top_k"])))
    if case["top_p"] < 1:
        warpers.append(TopPLogitsWarper(case["top_p"]))
    if case["typical_p"] < 1:
        warpers.append(TypicalLogitsWarper(case["typical_p"]))
    if case["min_p"]:
        warpers.append(MinPLogitsWarper(case["min_p"]))
    scores: Tensor = warpers(torch.zeros(1, 1, dtype=torch.int64), logits[None])[0]
    return scores


def expected_token(logits: Tensor, case: dict[str, float], draw: np.void) -> int:
    """Largest exp(score) / e in float64; the numbers e have their own test."""
    if case.get("temperature") == 0:
        return int(logits.argmax())
    keys = draw_keys(draw["seed"][None], draw["position"][None], torch.device("cpu"))
    noise = exponentials(keys, torch.arange(len(logits), dtype=torch.int32))[0]
    return int((warped(logits, case).double() - noise.double().log()).argmax())


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("columns", [50, 1000, 1100])
def test_tokens_are_those_of_transformers_warpers(
    kernels: Kernels, spread: float, columns: int
) -> None:
    logits = random_logits(len(CASES), columns, spread)
    for position in range(8):
        draws = draws_of(CASES, position)
        token_ids, largest = sample(kernels, logits, draws)
        assert torch.equal(largest, logits.amax(1))
        for row, case in enumerate(CASES):
            assert int(token_ids[row]) == expected_token(logits[row], case, draws[row]), case


def test_native_and_twin_choose_alike(native: Kernels, twins: Kernels) -> None:
    logits = random_logits(len(CASES), 49152)
    logits[:, ::3] = logits[:, 1::3]  # many ties
    for position in range(3):
        draws = draws_of(CASES, position)
        assert torch.equal(sample(native, logits, draws)[0], sample(twins, logits, draws)[0])


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 255, 256, 257])
def test_any_size_of_vocabulary(kernels: Kernels, columns: int) -> None:
    logits = random_logits(len(CASES), columns)
    draws = draws_of(CASES)
    token_ids, _ = sample(kernels, logits, draws)
    cut = [{**case, "top_k": min(case.get("top_k", 0), columns)} for case in CASES]
    expected = [expected_token(logits[r], case, draws[r]) for r, case in enumerate(cut)]
    assert token_ids.tolist() == expected


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.2}, {"typical_p": 0.7}],
    ids=str,
)
def test_draws_follow_the_softmax(kernels: Kernels, fields: dict[str, float]) -> None:
    count, columns = 20_000, 12
    logits = random_logits(1, columns, 1.0)
    draws = draws_of([fields] * count)
    draws["seed"], draws["position"] = 3, np.arange(count)
    token_ids, _ = sample(kernels, logits.repeat(count, 1), draws)
    expected = warped(logits[0].double(), fields).softmax(0).numpy() * count
    observed = np.bincount(token_ids.numpy(), minlength=columns)
    assert observed[expected == 0].sum() == 0
    kept = expected > 0
    statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = kept.sum() - 1
    assert statistic < freedom + 6 * math.sqrt(2 * freedom)


def test_rows_do_not_depend_on_batch_or_threads(native: Kernels) -> None:
    logits = random_logits(len(CASES), 5000)
    draws = draws_of(CASES)
    whole = sample(native, logits, draws)
    reports = top_logprobs(native, logits, list(range(len(CASES))), 5)
    for threads in (1, 2, 3):
        native.set_num_threads(threads)
        for first, last in [(0, len(CASES)), *((r, r + 1) for r in range(len(CASES)))]:
            part = slice(first, last)
            for got, wanted in zip(sample(native, logits[part], draws[part]), whole, strict=True):
                assert torch.equal(got, wanted[part])
            alone = top_logprobs(native, logits, list(range(first, last)), 5)
            for got, wanted in zip(alone, reports, strict=True):
                assert torch.equal(got, wanted[part])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_with_nothing_to_choose_say_so_alone(kernels: Kernels, case: dict[str, float]) -> None:
    logits = random_logits(5, 700)
    draws = draws_of([case] * 5)
    expected, _ = sample(kernels, logits, draws)
    logits[1, 699] = torch.nan
    logits[2] = -torch.inf
    logits[3, 5] = torch.inf
    token_ids, largest = sample(kernels, logits, draws)
    assert largest.isfinite().tolist() == [True, False, False, False, True]
    assert largest[1].isnan()
    assert token_ids[[0, 4]].tolist() == expected[[0, 4]].tolist()


@pytest.mark.parametrize("columns", [70, 1000])
def test_allow_leaves_set_bits_only(kernels: Kernels, columns: int) -> None:
    allowed = np.random.default_rng(3).random((3, columns)) < [[0.5], [0.01], [0.99]]
    allowed[2, :64] = True
    packed = np.zeros((3, 4 * (columns // 32 + 2)), np.uint8)
    packed[:, : -(-columns // 8)] = np.packbits(allowed, axis=1, bitorder="little")
    logits = random_logits(5, columns)
    expected, index = logits.clone(), torch.tensor([4, 0, 2])
    expected[index] = torch.where(torch.from_numpy(allowed), logits[index], -torch.inf)
    kernels.run(ops.Allow(logits, index, torch.from_numpy(packed.view(np.int32))))
    assert torch.equal(logits, expected)
    with pytest.raises(ValueError, match="outside"):
        kernels.run(ops.Allow(logits, index + 1, torch.from_numpy(packed.view(np.int32))))


def test_forbidden_tokens_are_never_drawn(kernels: Kernels) -> None:
    allowed = [3, 40, 999]
    logits = torch.full((len(CASES), 1000), -torch.inf)
    logits[:, allowed] = random_logits(len(CASES), 3)
    for position in range(10):
        token_ids, _ = sample(kernels, logits, draws_of(CASES, position))
        assert set(token_ids.tolist()) <= set(allowed)


HOSTILE: list[dict[str, float]] = [
    {"temperature": -1.0},
    {"temperature": math.nan},
    {"temperature": 1e-45},
    {"temperature": math.inf, "top_k": 3},
    {"top_k": -5},
    {"top_k": 2**62},
    *({name: value} for name in ("top_p", "typical_p") for value in (0.0, -1.0, -math.inf)),
    *({"top_p": value, "typical_p": value} for value in (math.nan, math.inf)),
    {"top_p": float(np.nextafter(np.float32(1), np.float32(0)))},
    {"min_p": -1.0},
    {"min_p": math.nan},
    {"min_p": 1.0},
    {"min_p": math.inf, "top_k": 4},
]


def test_hostile_parameters_still_choose_a_token(native: Kernels) -> None:
    logits = random_logits(len(HOSTILE), 333) * 1e3
    token_ids, _ = sample(native, logits, draws_of(HOSTILE))
    assert bool(((token_ids >= 0) & (token_ids < 333)).all())
    for row, case in enumerate(HOSTILE):
        if case.get("top_p", 1) <= 0 or case.get("typical_p", 1) <= 0 or case.get("min_p") == 1:
            assert token_ids[row] == logits[row].argmax(), "nothing is left but the likeliest"


def test_top_logprobs_are_those_of_the_softmax(kernels: Kernels) -> None:
    logits = random_logits(6, 1111)
    logits[2, [1000, 17, 400]] = 20.0  # ties: lower ids first
    logits[4] += 1000.0
    index = [4, 2, 0]
    for count in (0, 1, 5, 80, 1111):
        ids, logprobs, normalizers = top_logprobs(kernels, logits, index, count)
        expected = logits[index].double().log_softmax(1)
        order = expected.sort(dim=1, descending=True, stable=True).indices[:, :count]
        assert ids.tolist() == order.tolist()
        torch.testing.assert_close(
            logprobs.double(), expected.gather(1, order), rtol=1e-6, atol=1e-4
        )
        torch.testing.assert_close(
            normalizers.double(), logits[index].double().logsumexp(1), rtol=1e-6, atol=1e-6
        )


def test_rows_outside_the_logits_are_refused(kernels: Kernels) -> None:
    for row in (-1, 2):
        with pytest.raises(ValueError, match="outside the logits"):
            top_logprobs(kernels, random_logits(2, 40), [row], 3)


def test_arguments_that_do_not_fit_are_refused(kernels: Kernels) -> None:
    logits = random_logits(2, 40)
    with pytest.raises(ValueError, match="draws"):
        sample(kernels, logits, draws_of([{}] * 3))
    with pytest.raises(ValueError, match="draws"):
        sample(kernels, logits, draws_of([{}] * 4)[::2])
    with pytest.raises(ValueError, match="contiguous"):
        sample(kernels, logits[:, ::2], draws_of([{}] * 2))
    with pytest.raises(ValueError, match="more than there are logits"):
        top_logprobs(kernels, logits, [0], 41)


def test_recorded_sampling_reads_its_buffers_when_run(kernels: Kernels) -> None:
    logits, draws = torch.zeros(4, 300), draws_of([{}] * 4)
    token_ids, largest = torch.full((4,), -1), torch.empty(4)
    rows = torch.zeros(1, dtype=torch.int32)
    with kernels.record() as program:
        kernels.run(ops.Sample(logits, draws, token_ids, largest, rows=rows))
    logits.copy_(random_logits(4, 300))
    draws["position"] = 9
    rows[0] = 3
    program.run()
    expected, _ = sample(kernels, logits, draws)
    assert token_ids.tolist() == [*expected[:3].tolist(), -1]
