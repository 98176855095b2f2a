"""Runs -> tables for people and a JSON file for programs. Computes no figure of its own."""

import datetime
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from headrace.bench.compare import Ratio
from headrace.bench.errors import BenchError
from headrace.bench.measure import Summary, percentile
from headrace.bench.session import Level, Run

FIGURES: dict[str, Callable[[Summary], str]] = {
    "requests ok": lambda summary: f"{summary.completed:,}",
    "requests failed": lambda summary: f"{summary.failed:,}",
    "requests cancelled": lambda summary: f"{summary.cancelled:,}",
    "violations": lambda summary: f"{summary.violations.total():,}",
    "output tokens/s": lambda summary: f"{summary.output_throughput:,.1f}",
    "input tokens/s": lambda summary: f"{summary.input_throughput:,.1f}",
    "requests/s": lambda summary: f"{summary.request_throughput:,.2f}",
    "input tokens": lambda summary: f"{summary.total_input_tokens:,}",
    "of them cached": lambda summary: f"{summary.total_cached_tokens:,}",
}
LATENCIES: dict[str, tuple[str, Callable[[Summary], list[float]]]] = {
    "ttft": ("time to first token", lambda summary: summary.ttft),
    "tpot": ("time per output token", lambda summary: summary.tpot),
    "itl": ("inter-token latency", lambda summary: summary.itl),
    "e2el": ("end-to-end latency", lambda summary: summary.e2el),
}
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ratios of two servers at one level."""

    level: Level
    ratios: list[Ratio]


def print_runs(console: Console, runs: Sequence[Run]) -> None:
    """One column per run."""
    table = Table(title=f"{runs[0].model} at {runs[0].url}", title_justify="left")
    table.add_column("")
    for run in runs:
        table.add_column(str(run.level), justify="right")
    summaries = [run.summary for run in runs]
    for name, cell in FIGURES.items():
        table.add_row(name, *map(cell, summaries))
    for title, samples in LATENCIES.values():
        table.add_section()
        for percent in PERCENTILES:
            cells = [_milliseconds(samples(summary), percent) for summary in summaries]
            table.add_row(f"{title} p{percent}, ms", *cells)
    console.print(table)


def _milliseconds(samples: Sequence[float], percent: float) -> str:
    return f"{percentile(samples, percent) * 1e3:,.1f}" if samples else "-"


def print_problems(console: Console, run: Run) -> None:
    """One line for each kind of failure and violation."""
    for kind, found in (("failed", run.summary.errors), ("violation", run.summary.violations)):
        for name, number in found.most_common():
            line = f"{run.url}, {run.level}: {number} x {kind}: {name}"
            console.print(line, style="red", markup=False, highlight=False)


def print_comparison(console: Console, comparisons: Sequence[Comparison], a: str, b: str) -> None:
    """Medians over the rounds; the ratio's range in brackets."""
    table = Table(title=f"A {a}   B {b}", title_justify="left")
    for column in ("", "A", "B", "A / B [lowest .. highest round]"):
        table.add_column(column, justify="right" if column else "left")
    for comparison in comparisons:
        table.add_section()
        table.add_row(f"[bold]{comparison.level}")
        for ratio in comparison.ratios:
            is_time = ratio.name != "output_throughput"
            scale, unit = (1e3, ", ms") if is_time else (1.0, ", tokens/s")
            table.add_row(
                ratio.name.replace("_", " ") + unit,
                f"{ratio.a * scale:,.1f}",
                f"{ratio.b * scale:,.1f}",
                f"{ratio.median:.3f} [{ratio.low:.3f} .. {ratio.high:.3f}]",
            )
    console.print(table)


def write_json(path: Path, runs: Sequence[Run], comparisons: Sequence[Comparison]) -> None:
    """Inside a run the keys are those of `vllm bench serve`; NaN becomes null.

    Raises `BenchError` when the file cannot be written.
    """
    document = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "runs": [run_to_json(run) for run in runs],
        "comparisons": [
            {"level": str(comparison.level), "ratios": comparison.ratios}
            for comparison in comparisons
        ],
    }
    try:
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise BenchError(f"--json {path}: {error}") from error


def run_to_json(run: Run) -> dict[str, Any]:
    summary = run.summary
    document: dict[str, Any] = {
        "url": run.url,
        "model_id": run.model,
        "max_concurrency": summary.streams,
        "request_rate": "inf" if summary.rate is None else summary.rate,
        "duration": summary.duration,
        "completed": summary.completed,
        "failed": summary.failed,
        "cancelled": summary.cancelled,
        "errors": dict(summary.errors),
        "violations": dict(summary.violations),
        "total_input_tokens": summary.total_input_tokens,
        "total_cached_tokens": summary.total_cached_tokens,
        "total_output_tokens": summary.total_output_tokens,
        "request_throughput": summary.request_throughput,
        "input_throughput": summary.input_throughput,
        "output_throughput": summary.output_throughput,
        "total_token_throughput": summary.input_throughput + summary.output_throughput,
    }
    for key, (_, samples) in LATENCIES.items():
        document |= _latency_to_json(key, samples(summary))
    return document


def _latency_to_json(key: str, samples: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    values = {
        f"mean_{key}_ms": statistics.fmean(samples) if samples else math.nan,
        f"median_{key}_ms": percentile(samples, 50),
        f"std_{key}_ms": statistics.pstdev(samples) if samples else math.nan,
    }
    values |= {f"p{percent}_{key}_ms": percentile(samples, percent) for percent in PERCENTILES}
    return {name: value * 1e3 for name, value in values.items()}
