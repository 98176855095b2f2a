"""GPTQ against optimal brain quantization written out, and against rounding to nearest."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.calibration.gptq import quantize_gptq
from headrace.calibration.grid import Grid, round_to_nearest
from headrace.errors import CheckpointError

IN, OUT = 192, 24


def correlated_inputs(features: int = IN) -> Tensor:
    """[2000, features] that lie near a space of a quarter as many dimensions."""
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(2000, features // 4, generator=generator)
    mixed = few @ torch.randn(features // 4, features, generator=generator)
    return mixed + 0.5 * torch.randn(2000, features, generator=generator)


def hessian_of(inputs: Tensor) -> Tensor:
    return inputs.t() @ inputs / len(inputs)


def gptq(matrix: Tensor, hessian: Tensor, group_size: int = 32, **settings: Any) -> Any:
    grid = Grid(settings.pop("bits", 4), settings.pop("is_symmetric", True))
    settings = {"damping": 0.01, "is_act_order": False} | settings
    return quantize_gptq(matrix, hessian, grid, group_size, **settings)


def test_uncorrelated_inputs_leave_nothing_to_make_up_for() -> None:
    matrix = torch.randn(OUT, IN)
    ours = gptq(matrix, torch.eye(IN), is_symmetric=False)
    nearest = round_to_nearest(matrix, Grid(4, False), 32)
    assert torch.equal(ours.codes, nearest.codes)
    assert torch.equal(ours.scales, nearest.scales)
    assert torch.equal(ours.zero_points, nearest.zero_points)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 192])
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("is_act_order", [True, False])
def test_outputs_are_nearer_than_with_rounding(
    bits: int, group_size: int, is_symmetric: bool, is_act_order: bool
) -> None:
    inputs, matrix = correlated_inputs(), torch.randn(OUT, IN)
    ours = gptq(
        matrix, hessian_of(inputs), group_size,
        bits=bits, is_symmetric=is_symmetric, is_act_order=is_act_order,
    )  # fmt: skip
    nearest = round_to_nearest(matrix, Grid(bits, is_symmetric), group_size)
    errors = [(inputs @ (rounded.dequantize() - matrix).t()).norm() for rounded in (ours, nearest)]
    assert errors[0] < 0.6 * errors[1]


def written_out(matrix: np.ndarray, hessian: np.ndarray, damping: float, size: int) -> np.ndarray:
    """Optimal brain quantization in a fixed order, in float64: the inverse Hessian of what is left
    is computed anew for each column (equations 2 and 3 of the GPTQ paper)."""
    weights, result = matrix.astype(np.float64), np.empty_like(matrix, dtype=np.float64)
    damped = hessian.astype(np.float64) + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    for column in range(matrix.shape[1]):
        if column % size == 0:
            largest = np.abs(weights[:, column : column + size]).max(1)
            scales = (largest / 7.5).astype(np.float32).astype(np.float16).astype(np.float64)
        codes = np.clip(np.rint(weights[:, column] / scales), -8, 7)
        result[:, column] = codes * scales
        inverse = np.linalg.inv(damped[column:, column:])
        error = (weights[:, column] - result[:, column]) / inverse[0, 0]
        weights[:, column:] -= np.outer(error, inverse[0])
    return result


@pytest.mark.parametrize("is_act_order", [True, False])
def test_blocks_and_factors_change_nothing(is_act_order: bool) -> None:
    matrix = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(5))
    hessian = hessian_of(correlated_inputs())
    order = torch.arange(IN)
    if is_act_order:
        order = hessian.diagonal().argsort(descending=True)
    wanted = torch.empty(OUT, IN, dtype=torch.float64)
    wanted[:, order] = torch.from_numpy(
        written_out(matrix[:, order].numpy(), hessian[order][:, order].numpy(), 0.1, 32)
    )
    ours = gptq(matrix, hessian, damping=0.1, is_act_order=is_act_order)
    # float32 may break a tie the other way, after which that row goes its own way.
    equal_rows = torch.isclose(ours.dequantize().double(), wanted, atol=1e-3).all(1)
    assert equal_rows.float().mean() > 0.8


def test_inputs_that_are_never_seen_are_rounded() -> None:
    inputs, matrix = correlated_inputs(), torch.randn(OUT, IN)
    inputs[:, 40:] = 0
    ours = gptq(matrix, hessian_of(inputs))
    nearest = round_to_nearest(matrix, Grid(4, True), 32)
    assert torch.equal(ours.codes[:, 64:], nearest.codes[:, 64:])
    assert torch.equal(gptq(matrix, torch.zeros(IN, IN)).codes, nearest.codes)


def test_fewer_tokens_than_inputs_are_enough() -> None:
    """The Hessian is singular then, and the damping has to be raised."""
    inputs, matrix = correlated_inputs()[:20], torch.randn(OUT, IN)
    ours = gptq(matrix, hessian_of(inputs), damping=1e-9)
    nearest = round_to_nearest(matrix, Grid(4, True), 32)
    errors = [(inputs @ (rounded.dequantize() - matrix).t()).norm() for rounded in (ours, nearest)]
    assert errors[0] < 0.4 * errors[1]


def test_infinite_inputs_are_an_error() -> None:
    with pytest.raises(CheckpointError, match="computes infinities or NaN"):
        gptq(torch.randn(OUT, IN), torch.full((IN, IN), float("nan")))
