"""Against numpy's shortest representation of float32."""

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.text.float32 import shortest


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=0))
def test_prints_like_a_float32(value: float) -> None:
    printed = shortest(value)
    assert struct.unpack("f", struct.pack("f", printed))[0] == value
    exact = float(str(np.float32(value)))
    assert printed == exact or len(repr(printed)) == len(repr(exact))


def test_digits_of_double_precision_are_gone() -> None:
    assert repr(shortest(float(np.float32(-0.371582)))) == "-0.371582"
    assert shortest(float("-inf")) == float("-inf")
