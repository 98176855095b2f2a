"""What rounding to a grid promises, and numpy's own arithmetic."""

import numpy as np
import pytest
import torch

from headrace.calibration.grid import Grid, round_to_nearest


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_symmetric", [True, False])
def test_no_weight_moves_by_more_than_half_a_step(bits: int, is_symmetric: bool) -> None:
    matrix = torch.randn(16, 96) + 0.3
    rounded = round_to_nearest(matrix, Grid(bits, is_symmetric), 32)
    steps = rounded.scales.repeat_interleave(32, 1)
    # A whole zero point shifts a group by half a step at most, and a scale in float16 its last
    # code by 2 ** -11 of the 128 or 256 steps to it.
    off = ((rounded.dequantize() - matrix).abs() / steps).max()
    assert off <= (0.57 if is_symmetric else 1.13)
    assert off > 0.4


def test_the_symmetric_grid_is_numpys() -> None:
    matrix = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    groups = matrix.reshape(8, 2, 32)
    scales = (np.abs(groups).max(-1) / 7.5).astype(np.float16)
    wide = scales.astype(np.float32)[..., None]
    codes = np.clip(np.rint(groups / wide) + 8, 0, 15)
    ours = round_to_nearest(torch.from_numpy(matrix), Grid(4, True), 32)
    np.testing.assert_array_equal(ours.scales.numpy(), scales)
    np.testing.assert_array_equal(ours.codes.numpy(), codes.reshape(8, 64))
    assert ours.zero_points is None


def test_zeros_stay_zeros_in_any_group() -> None:
    matrix = torch.zeros(3, 64)
    matrix[0, :32] = torch.linspace(2, 3, 32)
    matrix[0, 5] = 0
    matrix[1] = -1
    for is_symmetric in (True, False):
        rounded = round_to_nearest(matrix, Grid(4, is_symmetric), 32)
        values = rounded.dequantize()
        assert values[0, 5] == 0 and not values[2].any()
        assert values.isfinite().all() and rounded.scales.min() > 0
        if rounded.zero_points is not None:
            assert rounded.zero_points.min() >= 1


def test_zero_points_make_lopsided_groups_finer() -> None:
    matrix = torch.rand(32, 64) + 0.1
    errors = [
        (round_to_nearest(matrix, Grid(4, is_symmetric), 32).dequantize() - matrix).norm()
        for is_symmetric in (True, False)
    ]
    assert errors[1] < 0.7 * errors[0]
