import torch

from headrace.kernels.sampling.choice import best


def test_best_finds_nan() -> None:
    values = torch.tensor([[1.0, torch.nan, 3.0], [1.0, 3.0, 3.0]])
    maximum, ids = best(values)
    assert maximum[0].isnan() and ids[1] == 1
