"""The mean of x x^T, whatever the pieces in which the inputs come."""

import torch

from headrace.calibration.hessian import Hessian


def test_pieces_add_up_to_the_mean() -> None:
    inputs = torch.randn(50, 12)
    hessian = Hessian(12)
    for piece in inputs.split([1, 0, 20, 29]):
        hessian.add(piece)
    torch.testing.assert_close(hessian.matrix, inputs.t() @ inputs / 50)


def test_no_input_is_no_curvature() -> None:
    assert not Hessian(3).matrix.any()
