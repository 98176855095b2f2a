"""Engine steps as counts that can be sent and added up, and as TGI's `tgi_batch_*` metrics.

Whoever sees the steps counts them (`count_step`); whoever shows those of several engines, adds.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from headrace.types import EngineStats, StepCounts

SUM: Final = -1
"""In place of a bucket: the sum of all values."""


def duration_buckets() -> list[float]:
    """0.0001 * 1.5^k seconds, k = 1..35, by repeated multiplication as TGI computes them."""
    bounds = [0.0001 * 1.5]
    while len(bounds) < 35:
        bounds.append(bounds[-1] * 1.5)
    return bounds


@dataclass(frozen=True)
class _Family:
    help: str
    label: str = "method"
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets; none: a counter."""
    scale: int = 1
    """Sums are counted in fractions of this, so that they are whole numbers."""


_DURATIONS = tuple(duration_buckets())
_SIZES = tuple(map(float, range(1, 1025)))


def _seconds(help: str) -> _Family:
    return _Family(help, bounds=_DURATIONS, scale=1_000_000_000)


FAMILIES: Final = {
    "tgi_batch_next_size": _Family("Requests in a step", "", _SIZES),
    "tgi_batch_inference_count": _Family("Steps"),
    "tgi_batch_inference_success": _Family("Other steps"),
    "tgi_batch_inference_failure": _Family("Steps in which a request failed"),
    "tgi_batch_inference_duration": _seconds("Seconds of a step"),
    "tgi_batch_forward_duration": _seconds("Seconds of a step on the device"),
    "tgi_batch_decode_duration": _seconds("Seconds of a step off the device"),
    "tgi_batch_filter_duration": _seconds(
        "Seconds to take in a step's tokens and let ended requests go"
    ),
    "tgi_batch_concat": _Family("Steps that mix prompts and decodes", "reason"),
    "tgi_batch_concat_duration": _seconds("Seconds to put prompts beside running decodes"),
}
SKIPPED: Final = "tgi_request_skipped_tokens"
"""A summary, in which one step counts once for every row."""


def count_step(counts: StepCounts, stats: EngineStats) -> None:
    """Add one step. A step with any prompt tokens goes by `prefill`, else `decode`."""
    method = "prefill" if stats.num_prefill_tokens else "decode"
    _count(counts, "tgi_batch_inference_count", method)
    outcome = "failure" if stats.num_failed else "success"
    _count(counts, f"tgi_batch_inference_{outcome}", method)
    _observe(counts, "tgi_batch_inference_duration", method, stats.step_duration)
    _observe(counts, "tgi_batch_forward_duration", method, stats.execute_duration)
    off_device = stats.step_duration - stats.execute_duration
    _observe(counts, "tgi_batch_decode_duration", method, off_device)
    _observe(counts, "tgi_batch_next_size", "", stats.num_running)
    _observe(counts, "tgi_batch_filter_duration", method, stats.update_duration)
    counts[SKIPPED, "", 0] += stats.num_sampled_rows
    counts[SKIPPED, "", SUM] += stats.num_skipped_tokens
    if stats.num_prefill_tokens and stats.num_decode_tokens:
        _count(counts, "tgi_batch_concat", "chunking")
        _observe(counts, "tgi_batch_concat_duration", "decode", stats.schedule_duration)


def _count(counts: StepCounts, name: str, label: str) -> None:
    counts[name, label, SUM] += 1


def _observe(counts: StepCounts, name: str, label: str, value: float) -> None:
    family = FAMILIES[name]
    counts[name, label, bisect_left(family.bounds, value)] += 1
    counts[name, label, SUM] += round(value * family.scale)


class StepCollector(Collector):
    """Shows counts, whatever they are when it is asked."""

    def __init__(self, counts: StepCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        labels: dict[str, list[str]] = {name: [] for name in FAMILIES}
        for name, label, bucket in self._counts:
            if name in labels and bucket == SUM:
                labels[name].append(label)
        for name, family in FAMILIES.items():
            yield self._family(name, family, labels[name] if family.label else [""])
        yield SummaryMetricFamily(
            SKIPPED,
            "New tokens of a request in one step beyond the first",
            self._counts[SKIPPED, "", 0],
            self._counts[SKIPPED, "", SUM],
        )

    def _family(self, name: str, family: _Family, labels: list[str]) -> Metric:
        names = [family.label] if family.label else []
        if not family.bounds:
            counter = CounterMetricFamily(name, family.help, labels=names)
            for label in labels:
                counter.add_metric([label], self._counts[name, label, SUM])
            return counter
        histogram = HistogramMetricFamily(name, family.help, labels=names)
        for label in labels:
            buckets = list(self._buckets(name, label, family.bounds))
            values = [label] if family.label else []
            total = self._counts[name, label, SUM] / family.scale
            histogram.add_metric(values, buckets, total)
        return histogram

    def _buckets(
        self, name: str, label: str, bounds: tuple[float, ...]
    ) -> Iterator[tuple[str, float]]:
        total = 0
        for index, bound in enumerate([*map(str, bounds), "+Inf"]):
            total += self._counts[name, label, index]
            yield bound, total
