"""Token ids of a text, cut into windows to calibrate on and windows held out to judge by."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import StartupError

HELD_OUT_SHARE = 10
"""One token in so many, from the text's end, is held out."""
MOST_HELD_OUT = 16
"""Windows whose perplexity is measured, twice."""


@dataclass(frozen=True)
class Windows:
    """Token ids of sequences that the model reads from their beginning."""

    calibration: list[list[int]]
    held_out: list[list[int]]


def cut_windows(
    token_ids: Sequence[int], prefix: Sequence[int], length: int, count: int
) -> Windows:
    """At most `count` windows of `length` tokens, each with `prefix` (a BOS) in front, spread
    evenly over the text, and windows out of its last tenth.

    Raises StartupError for a text that is too short for one of each.
    """
    fresh = length - len(prefix)
    num_held_out = max(1, len(token_ids) // fresh // HELD_OUT_SHARE)
    all_windows = [
        [*prefix, *token_ids[start : start + fresh]]
        for start in range(0, len(token_ids) - fresh + 1, fresh)
    ]
    if len(all_windows) < 2:
        raise StartupError(
            f"the calibration text has {len(token_ids)} tokens; two windows of {length} are the "
            "least: one to calibrate on and one held out"
        )
    held_out = all_windows[-num_held_out:]
    return Windows(_spread(all_windows[:-num_held_out], count), _spread(held_out, MOST_HELD_OUT))


def _spread(windows: list[list[int]], count: int) -> list[list[int]]:
    """At most `count` of the windows, evenly."""
    count = min(count, len(windows))
    return [windows[i * len(windows) // count] for i in range(count)]
