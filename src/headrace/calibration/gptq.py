"""GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2022): rounding that makes up for its own errors.

Columns are rounded one after another; what rounding one does to the layer's output is taken back,
as far as can be, by the columns that are still floats.
"""

import torch
from torch import Tensor

from headrace.calibration.grid import Grid, Points, values
from headrace.errors import CheckpointError
from headrace.quantization.matrix import QuantizedMatrix

BLOCK = 128
"""Columns whose errors reach the ones behind them in one product; groups lie within a block."""


def quantize_gptq(
    matrix: Tensor,
    hessian: Tensor,
    grid: Grid,
    group_size: int,
    *,
    damping: float,
    is_act_order: bool,
) -> QuantizedMatrix:
    """The matrix [out_features, in_features] float32 with a small error of its outputs.

    hessian: [in_features, in_features], see `Hessian`. damping: this share of the Hessian's mean
    diagonal is added to its diagonal. With `is_act_order` the inputs with the largest mean square
    come first, and groups are of neighbours in that order.
    """
    in_features = matrix.shape[1]
    order = torch.arange(in_features)
    if is_act_order:
        order = hessian.diagonal().argsort(descending=True, stable=True)
    factor = inverse_factor(hessian[order][:, order], damping)
    codes, points = _round_columns(matrix.t()[order].contiguous(), factor, grid, group_size)
    in_place = torch.empty_like(order)
    in_place[order] = torch.arange(in_features)
    zero_points = torch.stack([group.zero_points for group in points], dim=1)
    return QuantizedMatrix(
        codes=codes[in_place].t().contiguous(),
        scales=torch.stack([group.scales for group in points], dim=1),
        zero_points=None if grid.is_symmetric else zero_points,
        bits=grid.bits,
        group_index=(in_place // group_size).int() if is_act_order else None,
    )


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper triangular U with U^T U = H^-1, of the damped Hessian.

    Row j, from j on, is what column j's error means to the columns behind it. Inputs that are
    always zero tell nothing, and get a one on the diagonal. Raises CheckpointError if it is not
    finite.
    """
    if not bool(hessian.isfinite().all()):
        raise CheckpointError("the model computes infinities or NaN from the calibration text")
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    diagonal.masked_fill_(diagonal == 0, 1.0)
    step = damping * float(diagonal.mean())
    while True:
        diagonal += step
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed:
            return upper
        step *= 10  # few tokens, or rounding in float32: not positive definite yet


def _round_columns(
    columns: Tensor, factor: Tensor, grid: Grid, group_size: int
) -> tuple[Tensor, list[Points]]:
    """Algorithm 1 of the paper, over columns [in_features, out_features], which it destroys.

    Returns codes of the same shape, uint8, and the grid of each group.
    """
    codes = torch.empty_like(columns, dtype=torch.uint8)
    points: list[Points] = []
    for start in range(0, len(columns), BLOCK):
        block = columns[start : start + BLOCK]
        errors = torch.empty_like(block)
        for i in range(len(block)):
            column = start + i
            if column % group_size == 0:
                points.append(grid.fit(columns[column : column + group_size], dim=0))
            code = grid.codes(block[i], points[-1])
            codes[column] = code
            errors[i] = (block[i] - values(code, points[-1])) / factor[column, column]
            behind = factor[column, column + 1 : start + len(block)]
            block[i + 1 :].addr_(behind, errors[i], alpha=-1)
        end = start + len(block)
        columns[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    return codes, points
