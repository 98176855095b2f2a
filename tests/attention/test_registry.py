"""Choosing a backend."""

import pytest
import torch

from headrace.attention import choose_backend
from headrace.errors import StartupError
from tests.attention.batches import shape


def test_no_backend_names_every_reason() -> None:
    with pytest.raises(StartupError, match=r"varlen needs .* paged caches .* not torch.int8"):
        choose_backend(shape(kv_dtype=torch.int8))
