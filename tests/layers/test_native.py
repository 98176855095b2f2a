"""What of a decoder the kernels refuse; that they compute it right is `tests/models`' matter."""

import pytest

from headrace.layers.native import unsupported


@pytest.mark.parametrize(
    ("activation", "hidden", "inner", "reason"),
    [
        ("silu", 576, 1536, None),
        ("gelu_pytorch_tanh", 64, 96, None),
        ("relu", 64, 96, "activation relu"),
        ("silu", 100, 96, "hidden size 100"),
        ("silu", 64, 100, "intermediate size 100"),
    ],
)
def test_reasons(activation: str, hidden: int, inner: int, reason: str | None) -> None:
    actual = unsupported(activation, hidden, inner)
    assert actual is None if reason is None else actual is not None and reason in actual
