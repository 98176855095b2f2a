"""Records -> the figures of one run. Definitions as in `vllm bench serve`; times in seconds."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from headrace.bench.record import Record


def percentile(samples: Sequence[float], percent: float) -> float:
    """Of sorted samples, interpolated linearly; NaN when there is none."""
    if not samples:
        return math.nan
    position = (len(samples) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(samples) - 1)
    return samples[low] + (samples[high] - samples[low]) * (position - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run against one server. The four lists are sorted samples in seconds."""

    streams: int | None
    """Closed loop; None in an open one."""
    rate: float | None
    """Open loop: requests per second asked for."""
    duration: float
    """From the first request's start to the last one's end, in seconds."""
    completed: int
    cancelled: int
    errors: Counter[str]
    """Message -> failed requests."""
    violations: Counter[str]
    total_input_tokens: int
    total_cached_tokens: int
    """Input tokens that the server took from its prefix cache, where it says so."""
    total_output_tokens: int
    """With what cancelled requests received until then."""
    ttft: list[float]
    """Time to first token: to the first chunk with text."""
    tpot: list[float]
    """Time per output token after the first, one sample per completed request."""
    itl: list[float]
    """Inter-token latency: between chunks with text that follow each other in a stream."""
    e2el: list[float]
    """End-to-end latency of completed requests."""

    @property
    def failed(self) -> int:
        return self.errors.total()

    @property
    def num_requests(self) -> int:
        return self.completed + self.cancelled + self.failed

    @property
    def is_clean(self) -> bool:
        return not self.errors and not self.violations

    @property
    def request_throughput(self) -> float:
        """Completed requests per second."""
        return self._per_second(self.completed)

    @property
    def input_throughput(self) -> float:
        return self._per_second(self.total_input_tokens)

    @property
    def output_throughput(self) -> float:
        return self._per_second(self.total_output_tokens)

    def _per_second(self, amount: float) -> float:
        return amount / self.duration if self.duration else 0.0


def summarize(
    records: Sequence[Record],
    violations: Counter[str],
    *,
    streams: int | None = None,
    rate: float | None = None,
) -> Summary:
    """What a run's records add up to; failed requests count as errors only."""
    answered = [record for record in records if record.error is None]
    complete = [record for record in answered if not record.cancelled]
    started = min((record.started for record in records), default=0.0)
    return Summary(
        streams=streams,
        rate=rate,
        duration=max((record.ended for record in records), default=0.0) - started,
        completed=len(complete),
        cancelled=len(answered) - len(complete),
        errors=Counter(record.error for record in records if record.error is not None),
        violations=violations,
        total_input_tokens=sum(record.prompt_tokens or 0 for record in answered),
        total_cached_tokens=sum(record.cached_tokens or 0 for record in answered),
        total_output_tokens=sum(record.num_output_tokens for record in answered),
        ttft=sorted(record.arrivals[0] - record.started for record in answered if record.arrivals),
        tpot=sorted(_times_per_output_token(complete)),
        itl=sorted(
            later - earlier for record in answered for earlier, later in pairwise(record.arrivals)
        ),
        e2el=sorted(record.ended - record.started for record in complete),
    )


def _times_per_output_token(records: Iterable[Record]) -> Iterator[float]:
    for record in records:
        if record.arrivals and record.num_output_tokens > 1:
            yield (record.ended - record.arrivals[0]) / (record.num_output_tokens - 1)
