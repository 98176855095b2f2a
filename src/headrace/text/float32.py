"""How numbers of single precision are written."""

import struct

SINGLE = struct.Struct("f")
MAX_DIGITS = 9
"""Significant decimal digits that tell any two float32 apart."""


def shortest(value: float) -> float:
    """The double that prints with the fewest digits which still mean the float32 `value`, as TGI
    prints it: -0.3715820014476776 becomes -0.371582."""
    for digits in range(6, MAX_DIGITS):
        rounded = float(f"{value:.{digits}g}")
        if SINGLE.unpack(SINGLE.pack(rounded))[0] == value:
            return rounded
    return float(f"{value:.{MAX_DIGITS}g}")
