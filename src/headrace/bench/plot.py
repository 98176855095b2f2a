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
        groups[f"{run.level}, {run.url}"].append(run.summary)
    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(2, 3).flat
    _draw_bars(axes[0], groups, "output_throughput", "output tokens/s")
    _draw_bars(axes[1], groups, "request_throughput", "requests/s")
    for axis, (title, samples) in zip(axes[2:], LATENCIES.values(), strict=True):
        of_groups = [
            [1e3 * value for summary in summaries for value in samples(summary)]
            for summaries in groups.values()
        ]
        _draw_histograms(axis, of_groups)
        axis.set(title=title, xlabel="ms", ylabel="share of samples")
    figure.legend(axes[0].patches, list(groups), loc="outside lower center", ncols=2)
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
    colors = [f"C{index}" for index in range(len(medians))]
    bars = axis.bar(range(len(medians)), medians, color=colors)
    axis.bar_label(bars, fmt="{:,.1f}")
    axis.set_xticks([])
    axis.set(title=title)


def _draw_histograms(axis: Any, of_groups: Sequence[Sequence[float]]) -> None:
    """On common bins, each group scaled to its own number of samples."""
    values = [value for group in of_groups for value in group]
    for index, group in enumerate(of_groups):
        if group:
            weights = [1 / len(group)] * len(group)
            limits = (min(values), max(values))
            axis.hist(group, BINS, range=limits, weights=weights, alpha=0.6, color=f"C{index}")
