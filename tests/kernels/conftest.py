"""Every compiled module that this CPU can run, and the twins, as fixtures."""

from collections.abc import Iterator

import pytest
import torch

from headrace.kernels.base import Kernels
from headrace.kernels.dispatch import native_modules
from headrace.kernels.native import NativeKernels
from headrace.kernels.twins import TorchKernels

NATIVE: list[Kernels] = [NativeKernels(module, "test") for module in native_modules()]
TWINS: Kernels = TorchKernels("test")
BFLOAT16_TWINS: Kernels = TorchKernels("test")
BFLOAT16_TWINS.has_bfloat16_products = True


@pytest.fixture(params=NATIVE or [None], ids=lambda kernels: kernels.name if kernels else "none")
def native(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """Each compiled module in turn, on two threads."""
    if request.param is None:
        pytest.skip("no compiled kernels")
    torch.manual_seed(0)
    request.param.set_num_threads(2)
    yield request.param
    request.param.set_num_threads(1)


@pytest.fixture(params=[*NATIVE, TWINS], ids=lambda kernels: kernels.name)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """Each compiled module and the twins."""
    torch.manual_seed(0)
    result: Kernels = request.param
    return result


@pytest.fixture
def twins() -> Kernels:
    return TWINS


@pytest.fixture(
    params=[*(kernels for kernels in NATIVE if kernels.has_bfloat16_products), BFLOAT16_TWINS],
    ids=lambda kernels: kernels.name,
)
def tiled(request: pytest.FixtureRequest) -> Kernels:
    """Those that take bfloat16 activations, and the twins as if they were such."""
    torch.manual_seed(0)
    result: Kernels = request.param
    return result
