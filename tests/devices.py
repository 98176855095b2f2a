"""The devices that tests run on: the CPU always, a GPU in runs that ask for it (`-m cuda`)."""

import pytest
import torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
every_device = pytest.mark.parametrize(
    "device", [CPU, pytest.param(CUDA, marks=pytest.mark.cuda)], ids=str
)
