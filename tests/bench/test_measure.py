from collections import Counter

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.measure import percentile, summarize
from headrace.bench.record import Record


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_percentile_is_numpys(samples: list[float], percent: float) -> None:
    assert percentile(sorted(samples), percent) == pytest.approx(
        float(numpy.percentile(samples, percent))
    )


def test_percentile_of_nothing_is_nan() -> None:
    assert numpy.isnan(percentile([], 50))


def record(started: float, arrivals: list[float], **fields: object) -> Record:
    return Record(
        prompt_number=0,
        started=started,
        ended=arrivals[-1] + 0.5,
        arrivals=arrivals,
        pieces=["x"] * len(arrivals),
        **fields,  # type: ignore[arg-type]
    )


def test_figures_of_a_run() -> None:
    complete = record(10.0, [11.0, 12.0, 14.0], completion_tokens=4, prompt_tokens=7)
    cancelled = record(10.5, [11.5, 11.75], cancelled=True)
    failed = record(9.0, [9.5], error="HTTP 503")
    summary = summarize([complete, cancelled, failed], Counter(), streams=2)
    assert summary.duration == 5.5  # 9.0 to 14.5
    assert (summary.completed, summary.cancelled, summary.failed) == (1, 1, 1)
    assert summary.total_output_tokens == 4 + 2
    assert summary.output_throughput == pytest.approx(6 / 5.5)
    assert summary.input_throughput == pytest.approx(7 / 5.5)
    assert summary.ttft == [1.0, 1.0]
    assert summary.itl == [0.25, 1.0, 2.0]
    assert summary.tpot == [3.5 / 3]
    assert summary.e2el == [4.5]
    assert not summary.is_clean


def test_a_run_without_requests_has_no_throughput() -> None:
    assert summarize([], Counter(), streams=1).output_throughput == 0
