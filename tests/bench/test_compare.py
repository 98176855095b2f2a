from collections import Counter

import pytest

from headrace.bench.compare import ratios
from headrace.bench.measure import summarize
from headrace.bench.record import Record
from headrace.bench.session import Level, Run


def run(seconds: float) -> Run:
    """One request of 2 tokens in `seconds`, the first halfway."""
    record = Record(
        prompt_number=0,
        started=0.0,
        ended=seconds,
        arrivals=[seconds / 2, seconds],
        completion_tokens=2,
    )
    return Run("url", "model", Level(streams=1), summarize([record], Counter(), streams=1))


def test_median_of_ratios_is_not_ratio_of_medians() -> None:
    # The machine slows down from round to round; A is always the faster one.
    found = {r.name: r for r in ratios([(run(1), run(2)), (run(4), run(10)), (run(9), run(12))])}
    assert found["median_ttft"].median == pytest.approx(0.5)
    assert found["median_ttft"].low == pytest.approx(0.4)
    assert found["median_ttft"].high == pytest.approx(0.75)
    assert found["output_throughput"].median == pytest.approx(2.0)
    assert (found["median_e2el"].a, found["median_e2el"].b) == (4, 10)
