"""Every way to quantize one model in one table: fidelity, memory, speed.

    python bench/export_bf16.py FOLDER
    python bench/schemes.py FOLDER [--checkpoint NAME=FOLDER ...] [--tokens 4096] [--plot PNG]

Each --quantize is applied to the float checkpoint in FOLDER while loading, and compared as in
fidelity.py with that checkpoint in float32; --checkpoint adds models that were quantized before.
Tokens/s are of one sequence's decode on the machine that runs this.
"""

import argparse
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from fidelity import FLOAT32, Probe, compare, reference_logits, text_windows

from headrace.kernels import load as load_kernels
from headrace.models.load import LoadOptions
from headrace.quantization import ON_LOAD

COLUMNS = {
    "kl": ("mean KL, nats", "{:.5f}"),
    "same_top": ("same greedy token", "{:.1%}"),
    "perplexity": ("perplexity", "{:.3f}"),
    "megabytes": ("weights, MB", "{:.0f}"),
    "tokens_per_second": ("tokens/s", "{:.0f}"),
}
Row = dict[str, float]


def ways(
    folder: Path, schemes: list[str], checkpoints: list[str], native: LoadOptions
) -> Iterator[tuple[str, Path, LoadOptions]]:
    """Name, model and options of each row."""
    yield "bfloat16", folder, native
    for name in schemes:
        yield name, folder, replace(native, quantize=name)
        yield f"{name}, exact", folder, replace(native, quantize=name, exact_activations=True)
    for checkpoint in checkpoints:
        name, _, path = checkpoint.partition("=")
        yield name, Path(path), native
        yield f"{name}, exact", Path(path), replace(native, exact_activations=True)


def write_plot(path: Path, rows: dict[str, Row]) -> None:
    """Memory against divergence; the nearer to the lower left corner, the better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axis = figure.subplots()
    for name, row in rows.items():
        marker = "o" if name.endswith("exact") else "s"
        axis.scatter(row["megabytes"], row["kl"], marker=marker)
        axis.annotate(name, (row["megabytes"], row["kl"]), fontsize=8, xytext=(4, 3),
                      textcoords="offset points")  # fmt: skip
    axis.set(xlabel="weights in memory, MB", ylabel="mean KL divergence to float32, nats",
             yscale="log")  # fmt: skip
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--schemes", default=",".join(ON_LOAD), help="values of --quantize")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    kernels = load_kernels("native")
    kernels.set_num_threads(options.threads)
    windows = text_windows(options.tokens)
    reference = reference_logits(options.folder, windows)
    native = replace(FLOAT32, kernels=kernels, kv_dtype=torch.float16)
    print("| scheme | " + " | ".join(title for title, _ in COLUMNS.values()) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    rows: dict[str, Row] = {}
    for name, path, variant in ways(
        options.folder, options.schemes.split(","), options.checkpoint, native
    ):
        probe = Probe(path, variant)
        speed = {"tokens_per_second": probe.tokens_per_second()}
        size = {"megabytes": probe.weight_bytes / 1e6}
        rows[name] = compare(windows, probe, reference) | size | speed
        cells = [form.format(rows[name][key]) for key, (_, form) in COLUMNS.items()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        del probe
        gc.collect()
    if options.plot:
        write_plot(options.plot, rows)


if __name__ == "__main__":
    main()
