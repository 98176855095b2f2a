"""Every way to quantize the embedded model in one table and one plot: fidelity, memory, speed.

    python -m bench.schemes FOLDER [--measure fidelity|speed] [--only PATTERN] [--again]
        [--openvino PYTHON] [--llama-folder DIR]

Makes the model's copies in FOLDER (a gigabyte or two; what is there is used again), measures, and
writes docs/quantization.json, the table in docs/quantization.md and docs/quantization.svg. Figures
that are there are kept unless --again, so that a run that was cut off goes on, and speed can wait
for a quiet machine. Runs at the root of the repository, with the `test` extra; --openvino (a Python
with openvino_genai) and --llama-folder (with llama.cpp's tools) add these engines, and the latter
the GGUF formats.
"""

import argparse
import gc
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.export_bf16 import export
from bench.fidelity import FLOAT32, Probe, compare, scored, text_windows
from bench.fidelity_peers import Figures, LlamaCpp, OpenVino
from bench.quantized_copies import copies
from headrace.checkpoint.embedded import embedded_model
from headrace.kernels import load as load_kernels
from headrace.models.load import LoadOptions

DOCS = Path("docs")
ON_LOAD = ("int4", "int8", "eetq", "fp8", "bitsandbytes-nf4", "bitsandbytes-fp4")
CACHES = {"int8": torch.int8, "fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
COLUMNS: dict[str, tuple[str, str]] = {
    "megabytes": ("weights, MB", "{:.0f}"),
    "kl": ("KL, nats", "{:.5f}"),
    "same_top": ("same token", "{:.1%}"),
    "perplexity": ("perplexity", "{:.2f}"),
    "exact_kl": ("KL, float32 activations", "{:.5f}"),
    "one_row": ("tok/s, 1 row", "{:.0f}"),
    "eight_rows": ("8 rows", "{:.0f}"),
    "prompt": ("prompt", "{:,.0f}"),
}
"""By figure: title and form."""
KINDS = {"fidelity": "kl", "speed": "prompt"}
"""What is measured at once, and a figure that says that it was."""
Measure = Callable[[], Figures]


@dataclass(frozen=True)
class Row:
    """A line of the table, and how its figures come about."""

    name: str
    fidelity: Measure
    speed: Measure


class Measurements:
    """Against the embedded model in float32, which is computed when first asked for."""

    def __init__(self, tokens: int) -> None:
        self.windows = text_windows(tokens)
        self._reference: list[torch.Tensor] = []

    @property
    def reference(self) -> list[torch.Tensor]:
        if not self._reference:
            logits = Probe(embedded_model(), FLOAT32).logits(self.windows)
            self._reference = [scored(window) for window in logits]
        return self._reference

    def ours(self, name: str, path: Path, options: LoadOptions) -> Row:
        def fidelity() -> Figures:
            probe = Probe(path, options)
            figures = self._compare(probe) | {"megabytes": probe.weight_bytes / 1e6}
            del probe
            exact = self._compare(Probe(path, replace(options, exact_activations=True)))
            return figures | {"exact_kl": exact["kl"]}

        return Row(name, fidelity, lambda: Probe(path, options).speed())

    def peer(self, name: str, engine: OpenVino | LlamaCpp) -> Row:
        return Row(name, lambda: engine.fidelity(self.windows, self.reference), engine.speed)

    def _compare(self, probe: Probe) -> Figures:
        return compare(self.windows, probe.logits(self.windows), self.reference)


def rows(
    measurements: Measurements, given: argparse.Namespace, native: LoadOptions
) -> Iterator[Row]:
    """Of the table, from top to bottom; makes the copies of the model that they need."""
    ours, floats, embedded = measurements.ours, given.folder / "bf16", embedded_model()
    if not floats.exists():
        export(floats)
    yield ours("bfloat16", floats, native)
    for flag in ON_LOAD:
        yield ours(f"`--quantize {flag}`", floats, replace(native, quantize=flag))
    for name, path in copies(floats, given.folder, given.llama_folder).items():
        yield ours(name, path, native)
    yield ours("GGUF Q4_1", embedded, native)
    if native.kernels and native.kernels.has_bfloat16_tiles:
        split = replace(native, prompt_dtype=torch.bfloat16)
        yield ours("the same, prompts in bfloat16", embedded, split)
    for flag, dtype in CACHES.items():
        yield ours(
            f"the same, `--kv-cache-dtype {flag}`", embedded, replace(native, kv_dtype=dtype)
        )
    if given.openvino:
        engine: OpenVino | LlamaCpp = OpenVino(given.openvino, embedded)
        yield measurements.peer("OpenVINO GenAI, Q4_1", engine)
    if given.llama_folder:
        yield measurements.peer("llama.cpp, Q4_1", LlamaCpp(given.llama_folder, embedded))


def wanted(name: str, figures: Figures, given: argparse.Namespace) -> Iterator[str]:
    """The kinds that this run has to measure of a row."""
    for kind in [given.measure] if given.measure else KINDS:
        if re.search(given.only, name) and (given.again or KINDS[kind] not in figures):
            yield kind


def write_table(results: dict[str, Figures]) -> None:
    """Between the markers in the document."""
    lines = ["| | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("|---" + "|---:" * len(COLUMNS) + "|")
    for name, figures in results.items():
        cells = [form.format(figures[key]) if key in figures else "" for key, (_, form) in
                 COLUMNS.items()]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    path = DOCS / "quantization.md"
    table = "\n".join(lines)
    pattern = r"(<!-- schemes -->\n).*?(<!-- end -->)"
    document, count = re.subn(pattern, rf"\g<1>{table}\n\2", path.read_text(), flags=re.DOTALL)
    assert count == 1, f"{path} has no markers"
    path.write_text(document)


def write_plot(results: dict[str, Figures]) -> None:
    """Memory against divergence: the nearer to the lower left corner, the better."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "schemes", "font.size": 8}
    figure = Figure(figsize=(10, 7), layout="constrained")
    axis = figure.subplots()
    for name, row in results.items():
        if KINDS["fidelity"] not in row:
            continue
        peer = "exact_kl" not in row
        axis.scatter(row["megabytes"], row["kl"], color="C3" if peer else "C0", s=18)
        if not peer:
            axis.plot(2 * [row["megabytes"]], [row["kl"], row["exact_kl"]], color="C0", alpha=0.4)
            axis.scatter(row["megabytes"], row["exact_kl"], color="C0", s=18, facecolors="none")
        axis.annotate(name.replace("`", ""), (row["megabytes"], row["kl"]), xytext=(4, 3),
                      textcoords="offset points")  # fmt: skip
    axis.set(xlabel="weights in memory, MB", xscale="log", yscale="log",
             ylabel="mean KL divergence to float32, nats; open: float32 activations")  # fmt: skip
    figure.savefig(DOCS / "quantization.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measure", choices=KINDS, help="default: both")
    parser.add_argument("--only", default="", metavar="PATTERN", help="rows whose name has it")
    parser.add_argument("--again", action="store_true", help="replace figures that are there")
    parser.add_argument("--tokens", type=int, default=4096, help="half of them are scored")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--openvino", metavar="PYTHON")
    parser.add_argument("--llama-folder", type=Path)
    given = parser.parse_args()
    kernels = load_kernels("native")
    kernels.set_num_threads(given.threads)
    torch.set_num_threads(given.threads)
    native = replace(FLOAT32, kernels=kernels, kv_dtype=torch.float16)
    path = DOCS / "quantization.json"
    before: dict[str, Figures] = json.loads(path.read_text()) if path.exists() else {}
    results: dict[str, Figures] = {}
    for row in rows(Measurements(given.tokens), given, native):
        results[row.name] = before.pop(row.name, {})
        for kind in wanted(row.name, results[row.name], given):
            results[row.name] |= getattr(row, kind)()
            print(row.name, results[row.name], flush=True)
        gc.collect()
        path.write_text(json.dumps(results | before, indent=1, ensure_ascii=False) + "\n")
    write_table(results | before)
    write_plot(results | before)


if __name__ == "__main__":
    main()
