"""What the sections found, as text and as a plot."""

import statistics
from pathlib import Path
from typing import Any

Result = dict[str, Any]
MEGABYTE = 1 << 20
GAIN = ("1 streams", "32 streams")


def text(results: dict[str, Result]) -> str:
    return "\n\n".join(f"== {name}\n{section_text(name, each)}" for name, each in results.items())


def section_text(name: str, result: Result) -> str:
    if "rounds" in result:
        return "\n".join(_comparison(name, result))
    if name == "prefix":
        return "\n".join(_prefix(*item) for item in result["times"].items())
    if name == "start":
        medians = {engine: statistics.median(each) for engine, each in result["seconds"].items()}
        return "\n".join(f"{engine:12} {seconds:.2f} s" for engine, seconds in medians.items())
    if name == "memory":
        return _memory(result)
    return "\n".join(_overhead(*item) for item in result.items())


def value(case: str, figures: dict[str, float]) -> float:
    """What a case is judged by: tokens per second."""
    if case == "prefill":
        return figures["input"]
    return 1 / figures["tpot"] if case == "8k context" else figures["output"]


def _comparison(name: str, result: Result) -> list[str]:
    lines = []
    if limits := result.get("limits"):
        lines.append("limits: " + ", ".join(f"{key} {each:g}" for key, each in limits.items()))
    medians: dict[str, float] = {}
    for case, engines in result["rounds"].items():
        ours = [value(case, each) for each in engines.get("headrace", [])]
        for engine, rounds in engines.items():
            values = [value(case, each) for each in rounds]
            line = f"{case:12} {engine:12} {statistics.median(values):8.1f} tok/s"
            if engine == "headrace":
                medians[case] = statistics.median(values)
            elif ours:
                ratio = statistics.median(a / b for a, b in zip(ours, values, strict=True))
                line += f"  headrace is {ratio:.2f} times that"
            if used := result.get("fractions", {}).get(case, {}).get(engine):
                line += "  " + ", ".join(f"{part:.0%} of {limit}" for limit, part in used.items())
            lines.append(line)
    if all(case in medians for case in GAIN):
        lines.append(f"32 streams against 1: {medians[GAIN[1]] / medians[GAIN[0]]:.1f} times")
    return lines


def _prefix(case: str, rounds: list[dict[str, float]]) -> str:
    cold, warm = (statistics.median(each[key] for each in rounds) for key in ("cold", "warm"))
    ratio = statistics.median(each["warm"] / each["cold"] for each in rounds)
    return (
        f"{case:12} time to first token {cold * 1000:.0f} ms, {warm * 1000:.0f} ms cached: "
        f"ratio {ratio:.3f}"
    )


def _memory(result: Result) -> str:
    """In MiB; `samples` are beyond weights and cache."""
    known = result["weights"] + result["cache"]
    lines = [f"weights {result['weights'] / MEGABYTE:.0f}, cache {result['cache'] / MEGABYTE:.0f}"]
    for when in ("idle", "loaded"):
        parts = ", ".join(f"{name} {size / MEGABYTE:.0f}" for name, size in result[when].items())
        rest = (sum(result[when].values()) - known) / MEGABYTE
        lines.append(f"{when}: {rest:.0f} beyond them; of each process: {parts}")
    steady = result["samples"][len(result["samples"]) // 2 :]
    sizes = [size / MEGABYTE for _, size in steady]
    slope = statistics.linear_regression([seconds / 60 for seconds, _ in steady], sizes).slope
    lines.append(
        f"second half of the load: {min(sizes):.0f} to {max(sizes):.0f} beyond them, "
        f"growing by {slope:.2f} a minute"
    )
    return "\n".join(lines)


def _overhead(case: str, figures: dict[str, float]) -> str:
    return (
        f"{case:12} front end {figures['front_us_per_token']:.0f} us a token "
        f"({figures['front_share']:.1%}), engine outside of kernels "
        f"{figures['engine_us_per_token']:.0f} us ({figures['engine_share']:.1%})"
    )


def plot(results: dict[str, Result], path: Path) -> None:
    """Bars of tokens per second, one picture per compared model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    compared = {name: each["rounds"] for name, each in results.items() if "rounds" in each}
    if not compared:
        return
    figure, axes = pyplot.subplots(
        1, len(compared), figsize=(5 * len(compared), 4), squeeze=False, layout="constrained"
    )
    for axis, (name, rounds) in zip(axes[0], compared.items(), strict=True):
        engines = list(next(iter(rounds.values())))
        for index, engine in enumerate(engines):
            heights = [
                statistics.median(value(case, each) for each in by_engine[engine])
                for case, by_engine in rounds.items()
            ]
            places = [place + index / (len(engines) + 1) for place in range(len(rounds))]
            axis.bar(places, heights, 1 / (len(engines) + 1), label=engine)
        axis.set_title(name)
        axis.set_yscale("log")
        axis.set_ylabel("tokens per second")
        axis.set_xticks([place + 0.3 for place in range(len(rounds))], list(rounds))
        axis.legend()
    figure.savefig(path)
