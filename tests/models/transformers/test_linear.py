"""Layers put on a scheme's weights compute what they did."""

import pytest
import torch
from torch import nn

from headrace.kernels import Kernels, TorchKernels
from headrace.kernels import load as load_kernels
from headrace.models.transformers.linear import adopt_linears, num_bytes
from headrace.quantization import SCHEMES, Scheme, Target


class Scaled(nn.Embedding):
    """Its own forward must survive."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 3


class Tiny(nn.Module):
    def __init__(self, *, is_tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.scaled = Scaled(50, 32)
        self.inner = nn.Sequential(nn.Linear(32, 48), nn.SiLU(), nn.Linear(48, 32, bias=False))
        self.head = nn.Linear(32, 50, bias=False)
        if is_tied:
            self.head.weight = self.embedding.weight

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(token_ids) + self.scaled(token_ids)
        return self.head(self.inner(hidden))


def scheme(kernels: Kernels) -> Scheme:
    target = Target(dtype=torch.float32, device=torch.device("cpu"), kernels=kernels)
    return SCHEMES["none"]({}, target)


@pytest.mark.parametrize("kernels", [load_kernels(), TorchKernels("twins")])
@pytest.mark.parametrize("is_tied", [False, True])
@torch.inference_mode()
def test_same_results_and_one_copy(kernels: Kernels, is_tied: bool) -> None:
    torch.manual_seed(0)
    model = Tiny(is_tied=is_tied)
    token_ids = torch.tensor([[3, 1, 4], [1, 5, 9]])
    expected, before = model(token_ids), sum(p.nbytes for p in model.parameters())
    adopt_linears(model, scheme(kernels))
    torch.testing.assert_close(model(token_ids), expected, rtol=1e-5, atol=1e-5)
    assert type(model.scaled) is Scaled
    # The kernels pad rows to whole panels.
    assert before <= num_bytes(model) <= before * 1.3


def test_layers_still_say_their_shape_but_hold_no_values() -> None:
    model = Tiny(is_tied=True)
    adopt_linears(model, scheme(load_kernels()))
    assert model.head.weight.shape == (50, 32) and model.head.weight.dtype == torch.float32
    assert model.head.weight.isnan().all()
