"""The numbers are uniform, independent, and exactly those of a plain integer implementation."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kernels.sampling.random import DrawKeys, draw_keys, exponentials

CPU = torch.device("cpu")
M32, M64 = 2**32 - 1, 2**64 - 1


def plain_exponential(seed: int, position: int, token_id: int) -> float:
    """The same number with Python's unbounded integers."""

    def splitmix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & M64
        x = (x ^ x >> 27) * 0x94D049BB133111EB & M64
        return x ^ x >> 31

    key = splitmix((splitmix((seed + 0x9E3779B97F4A7C15) & M64) + position) & M64)
    x = (token_id * 0x9E3779B9 & M32) ^ (key & M32)
    x ^= x >> 16
    x = (x * 0x7FEB352D + (key >> 32)) & M32
    x ^= x >> 15
    x = x * 0x846CA68B & M32
    signed_high = (x >> 16) | (0xFFFF0000 if x >> 31 else 0)
    uniform = ((x ^ signed_high) & 0x7FFFFFFF) / 2**31
    return -math.log1p(-min(uniform, 1 - 2**-24))


def keys(seeds: list[int], positions: list[int]) -> DrawKeys:
    return draw_keys(np.array(seeds, np.uint64), np.array(positions, np.int64), CPU)


@settings(max_examples=50)
@given(st.integers(0, M64), st.integers(0, 2**31), st.lists(st.integers(0, 300_000), min_size=1))
def test_numbers_equal_a_plain_integer_implementation(
    seed: int, position: int, token_ids: list[int]
) -> None:
    drawn = exponentials(keys([seed], [position]), torch.tensor(token_ids, dtype=torch.int32))
    expected = [plain_exponential(seed, position, token_id) for token_id in token_ids]
    np.testing.assert_allclose(drawn[0].numpy(), expected, rtol=1e-5, atol=2**-31)
    assert (drawn > 0).all() and drawn.isfinite().all()


def uniforms(seeds: list[int], positions: list[int], num_ids: int) -> np.ndarray:
    drawn = exponentials(keys(seeds, positions), torch.arange(num_ids, dtype=torch.int32))
    return 1 - np.exp(-drawn.double().numpy())


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """Standardised: about normal with deviation 1 when the model holds."""
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = observed.size - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def test_numbers_are_uniform_over_ids_positions_and_seeds() -> None:
    for sample in (
        uniforms([7], [3], 200_000),
        uniforms([7] * 200_000, list(range(200_000)), 1),
        uniforms(list(range(200_000)), [3] * 200_000, 1),
    ):
        counts, _ = np.histogram(sample, bins=256, range=(0, 1))
        assert abs(chi_square(counts, np.full(256, 200_000 / 256))) < 4


def test_neighbouring_keys_are_independent() -> None:
    base = uniforms([11], [5], 200_000)[0]
    for other in (
        uniforms([12], [5], 200_000)[0],
        uniforms([11], [6], 200_000)[0],
        uniforms([11], [5], 200_001)[0][1:],
        uniforms([11 + 2**63], [5], 200_000)[0],
    ):
        pairs, _, _ = np.histogram2d(base, other, bins=16, range=[[0, 1]] * 2)
        assert abs(chi_square(pairs, np.full((16, 16), 200_000 / 256))) < 4
