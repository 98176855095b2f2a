"""What the benchmark of speculation measured: as a table, as JSON and as a picture."""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Pair = tuple["Measurement", "Measurement"]
"""Without and with speculation."""


@dataclass
class Measurement:
    """One engine, one workload, one round."""

    texts: list[str] = field(default_factory=list)
    num_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_forced: int = 0
    num_draft_steps: int = 0
    duration: float = 0.0
    cpu: float = 0.0
    """Seconds of all its processes; 0 if not measured."""
    decoding: float = 0.0
    """Seconds after the first token, added up over requests; 0 if the engine does not tell."""


@dataclass
class Results:
    """Of all rounds so far."""

    pairs: dict[tuple[str, str, int], list[Pair]] = field(default_factory=dict)
    """By engine, workload and number of streams."""
    bounds: dict[tuple[str, str, int], list[dict[str, float]]] = field(default_factory=dict)
    """As `pairs`: ratios of `whole` and `decoding` with drafts that are all right."""
    notes: list[str] = field(default_factory=list)


def figures(results: Results) -> list[dict[str, object]]:
    """By case, what is printed, written and drawn: medians over rounds; None if unknown. The cases
    of an engine are together."""
    names = [name for name, _, _ in results.pairs]
    return [
        {
            "engine": name,
            "workload": workload,
            "streams": streams,
            **_figures(rounds),
            **_bounds(results.bounds.get((name, workload, streams), [])),
        }
        for (name, workload, streams), rounds in sorted(
            results.pairs.items(), key=lambda case: names.index(case[0][0])
        )
    ]


def _figures(rounds: list[Pair]) -> dict[str, object]:
    def median(value: Callable[[Measurement, Measurement], float]) -> float:
        return statistics.median(value(off, on) for off, on in rounds)

    drafted, accepted, forced, draft_steps, num_tokens = (
        sum(getattr(on, name) for _, on in rounds)
        for name in ("num_drafted", "num_accepted", "num_forced", "num_draft_steps", "num_tokens")
    )
    tells = all(off.decoding and on.decoding for off, on in rounds)
    return {
        "off": median(lambda off, _: off.num_tokens / off.duration),
        "on": median(lambda _, on: on.num_tokens / on.duration),
        "ratio": median(gain),
        "decode_ratio": median(lambda off, on: _pace(on, on.decoding) / _pace(off, off.decoding))
        if tells
        else None,
        "cpu_ratio": median(lambda off, on: _pace(on, on.cpu) / _pace(off, off.cpu))
        if all(off.cpu and on.cpu for off, on in rounds)
        else None,
        "accepted": accepted / drafted if drafted else None,
        "accepted_length": accepted / draft_steps if draft_steps else None,
        "drafted_per_token": drafted / num_tokens if tells else None,
        "wasted_per_token": (drafted - accepted) / num_tokens if tells else None,
        "forced": forced / num_tokens if tells else None,
        "same_texts": all(on.texts == off.texts for off, on in rounds),
    }


def gain(off: Measurement, on: Measurement) -> float:
    """How many times as fast the tokens came."""
    return _pace(on, on.duration) / _pace(off, off.duration)


def _pace(measurement: Measurement, seconds: float) -> float:
    return measurement.num_tokens / seconds


def _bounds(rounds: list[dict[str, float]]) -> dict[str, float | None]:
    return {
        name: statistics.median(bound[key] for bound in rounds) if rounds else None
        for name, key in (("bound", "whole"), ("decode_bound", "decoding"))
    }


COLUMNS: dict[str, tuple[str, str]] = {
    "engine": ("engine", "{}"),
    "workload": ("workload", "{}"),
    "streams": ("streams", "{}"),
    "off": ("off tok/s", "{:.0f}"),
    "on": ("on tok/s", "{:.0f}"),
    "ratio": ("ratio", "{:.2f}"),
    "bound": ("bound", "{:.2f}"),
    "decode_ratio": ("decode", "{:.2f}"),
    "decode_bound": ("its bound", "{:.2f}"),
    "cpu_ratio": ("CPU", "{:.2f}"),
    "accepted": ("accepted", "{:.0%}"),
    "accepted_length": ("at once", "{:.1f}"),
    "drafted_per_token": ("drafted/token", "{:.2f}"),
    "wasted_per_token": ("wasted/token", "{:.2f}"),
    "forced": ("forced", "{:.0%}"),
    "same_texts": ("same texts", "{}"),
}
"""By figure: title and form."""


def table(results: Results) -> str:
    """In Markdown, with a line for each engine that did not run."""
    titles = [title for title, _ in COLUMNS.values()]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in figures(results):
        cells = ["" if row[name] is None else form.format(row[name])
                 for name, (_, form) in COLUMNS.items()]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *results.notes])


def write_json(path: Path, results: Results) -> None:
    report = {"cases": figures(results), "notes": results.notes}
    path.write_text(json.dumps(report, indent=1))


def write_plot(path: Path, results: Results) -> None:
    """A bar per engine and case, and a line where the bound is."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "speculation", "font.size": 8}
    rows = figures(results)
    all_streams = sorted({streams for _, _, streams in results.pairs})
    workloads = list(dict.fromkeys(workload for _, workload, _ in results.pairs))
    names = list(dict.fromkeys(name for name, _, _ in results.pairs))
    width = 0.8 / len(names)
    figure = Figure(figsize=(10, 3 * len(all_streams)), layout="constrained")
    axes = figure.subplots(len(all_streams), squeeze=False)[:, 0]
    for axis, streams in zip(axes, all_streams, strict=True):
        for row in (row for row in rows if row["streams"] == streams):
            place = names.index(str(row["engine"]))
            x = workloads.index(str(row["workload"])) + place * width
            axis.bar(x, row["ratio"], width, color=f"C{place}")
            if row["bound"] is not None:
                axis.hlines(row["bound"], x - width / 2, x + width / 2, color="black")
        axis.axhline(1, color="grey", linewidth=0.5)
        axis.set_xticks(range(len(workloads)), workloads)
        axis.set(title=f"{streams} streams", ylabel="tokens/s, on / off")
    handles = [matplotlib.patches.Patch(color=f"C{i}") for i in range(len(names))]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
