"""Two servers in one run, A B A B ...: figures of noisy machines, made comparable by ratios."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.bench.measure import Summary, percentile
from headrace.bench.session import Run

COMPARED: dict[str, Callable[[Summary], float]] = {
    "output_throughput": lambda summary: summary.output_throughput,
    "median_ttft": lambda summary: percentile(summary.ttft, 50),
    "median_itl": lambda summary: percentile(summary.itl, 50),
    "median_e2el": lambda summary: percentile(summary.e2el, 50),
}


@dataclass(frozen=True, slots=True)
class Ratio:
    """A's value over B's, over the rounds; NaN where a round has no value."""

    name: str
    median: float
    low: float
    high: float
    a: float
    """Median over the rounds; like `b` in the unit of the summary."""
    b: float


def ratios(rounds: Sequence[tuple[Run, Run]]) -> list[Ratio]:
    """From pairs (A, B), one for each round."""
    return [
        _ratio(name, [of(a.summary) for a, _ in rounds], [of(b.summary) for _, b in rounds])
        for name, of in COMPARED.items()
    ]


def _ratio(name: str, a: Sequence[float], b: Sequence[float]) -> Ratio:
    each = [x / y if y else float("nan") for x, y in zip(a, b, strict=True)]
    return Ratio(
        name=name,
        median=statistics.median(each),
        low=min(each),
        high=max(each),
        a=statistics.median(a),
        b=statistics.median(b),
    )
