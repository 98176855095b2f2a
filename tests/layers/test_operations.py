"""RMS norm against torch's."""

import torch

from headrace.layers.operations import rms_norm


def test_matches_torch() -> None:
    x, weight = torch.randn(7, 48), torch.randn(48)
    expected = torch.nn.functional.rms_norm(x, (48,), weight, 1e-3)
    torch.testing.assert_close(rms_norm(x, weight, 1e-3), expected)


def test_statistics_are_wide() -> None:
    """The square of 1000 overflows float16; the norm must not."""
    x = torch.full((1, 8), 1000.0, dtype=torch.float16)
    assert torch.equal(rms_norm(x, torch.ones(8, dtype=torch.float16), 1e-6), torch.ones_like(x))
