"""`main`: options -> sessions -> reports -> exit code."""

import sys
from collections.abc import Sequence

import uvloop
from rich.console import Console

from headrace.bench.compare import ratios
from headrace.bench.errors import BenchError
from headrace.bench.options import Options, parse_options
from headrace.bench.plot import require_matplotlib, write_plot
from headrace.bench.report import (
    Comparison,
    print_comparison,
    print_problems,
    print_runs,
    write_json,
)
from headrace.bench.session import Run, Session, levels


def main(argv: Sequence[str]) -> int:
    """0: every answer was right. 1: one was not, or the server could not be used. 130: ^C.

    Wrong arguments exit with 2.
    """
    options = parse_options(argv)
    try:
        if options.plot:
            require_matplotlib()
        measure = _measure if options.compare is None else _compare
        runs, comparisons = uvloop.run(measure(options))
        _report(options, runs, comparisons)
    except BenchError as error:
        print(f"headrace bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if all(run.summary.is_clean for run in runs) else 1


async def _measure(options: Options) -> tuple[list[Run], list[Comparison]]:
    """Each level once."""
    runs: list[Run] = []
    first = 0
    async with Session.open(options, options.url, options.model) as session:
        for level in levels(options):
            runs.append(await session.run(level, first))
            first += _step(runs[-1:])
    return runs, []


async def _compare(options: Options) -> tuple[list[Run], list[Comparison]]:
    """Each level `rounds` times on both servers in turn, with the same prompts in a round."""
    assert options.compare is not None
    runs: list[Run] = []
    comparisons: list[Comparison] = []
    first = 0
    async with (
        Session.open(options, options.url, options.model) as a,
        Session.open(options, options.compare, options.compare_model) as b,
    ):
        for level in levels(options):
            rounds: list[tuple[Run, Run]] = []
            for _ in range(options.rounds):
                rounds.append((await a.run(level, first), await b.run(level, first)))
                first += _step(rounds[-1])
            comparisons.append(Comparison(level, ratios(rounds)))
            runs += [run for pair in rounds for run in pair]
    return runs, comparisons


def _step(runs: Sequence[Run]) -> int:
    """Requests that were numbered, made even: --check-determinism pairs an even one with the
    next."""
    largest = max(run.summary.num_requests for run in runs)
    return largest + largest % 2


def _report(options: Options, runs: Sequence[Run], comparisons: Sequence[Comparison]) -> None:
    console = Console()
    if options.compare is None:
        print_runs(console, runs)
    else:
        print_comparison(console, comparisons, options.url, options.compare)
    for run in runs:
        print_problems(console, run)
    if options.json:
        write_json(options.json, runs, comparisons)
    if options.plot:
        write_plot(options.plot, runs)
