"""Runs -> one picture: throughput as bars, latencies as histograms. Needs the `bench` extra."""

import importlib.util
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.bench.errors import BenchError
from headrace.bench.measure import Summary
from headrace.bench.report import LATENCIES
from headrace.bench.session import Run

BINS = 40


def require_matplotlib() -> None:
    """Raises `BenchError` where matplotlib is missing: before the load, not after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError("--plot needs matplotlib: pip install 'headrace[bench]'")


def write_plot(path: Path, runs: Sequence[Run]) -> None:
    """Rounds of one level and server are one bar (their median) and one histogram.

    The file's ending chooses the format. Raises `BenchError` when it cannot be written.
    """
    from matplotlib.figure import Figure

    groups: defaultdict[str, list[Summary]] = defaultdict(list)
    for run in runs:
        groups[f"{run.level}\n{run.url}"].append(run.summary)
    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(2, 3).flat
    _draw_bars(axes[0], groups, "output_throughput", "output tokens/s")
    _draw_bars(axes[1], groups, "request_throughput", "requests/s")
    for axis, (title, samples) in zip(axes[2:], LATENCIES.values(), strict=True):
        for label, summaries in groups.items():
            milliseconds = [1e3 * value for summary in summaries for value in samples(summary)]
            axis.hist(milliseconds, bins=BINS, alpha=0.6, label=label)
        axis.set(title=title, xlabel="ms", ylabel="samples")
    axes[2].legend(fontsize="small")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise BenchError(f"--plot {path}: {error}") from error


def _draw_bars(
    axis: Any, groups: Mapping[str, Sequence[Summary]], attribute: str, title: str
) -> None:
    medians = [
        statistics.median(getattr(summary, attribute) for summary in summaries)
        for summaries in groups.values()
    ]
    axis.bar_label(axis.bar(range(len(medians)), medians), fmt="{:,.1f}")
    axis.set_xticks(range(len(medians)), list(groups), fontsize="small")
    axis.set(title=title)
