"""Activations against transformers' table of the same names."""

import pytest
import torch
from transformers.activations import ACT2FN

from headrace.layers.activation import ACTIVATIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_same_name_same_function(name: str) -> None:
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x))
