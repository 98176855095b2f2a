"""Cutting a text: nothing is in both halves, and the held-out one is the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.calibration.windows import MOST_HELD_OUT, cut_windows
from headrace.errors import StartupError


@given(
    tokens=st.integers(20, 3000), length=st.integers(3, 10), count=st.integers(1, 50),
    prefix=st.lists(st.just(-1), max_size=2),
)  # fmt: skip
def test_windows_are_disjoint_pieces_of_the_text(
    tokens: int, length: int, count: int, prefix: list[int]
) -> None:
    windows = cut_windows(range(tokens), prefix, length, count)
    assert 1 <= len(windows.calibration) <= count
    assert 1 <= len(windows.held_out) <= MOST_HELD_OUT
    seen: set[int] = set()
    for window in [*windows.calibration, *windows.held_out]:
        assert len(window) == length and window[: len(prefix)] == prefix
        fresh = window[len(prefix) :]
        assert fresh == list(range(fresh[0], fresh[0] + len(fresh)))
        assert not seen & set(fresh)
        seen |= set(fresh)
    assert windows.held_out[0][-1] > windows.calibration[-1][-1]


def test_calibration_windows_are_spread_over_the_text() -> None:
    windows = cut_windows(range(1000), [], 10, 4)
    assert [window[0] for window in windows.calibration] == [0, 220, 450, 670]


def test_a_short_text_is_refused() -> None:
    with pytest.raises(StartupError, match="has 19 tokens; two windows of 10 are the least"):
        cut_windows(range(19), [], 10, 4)
