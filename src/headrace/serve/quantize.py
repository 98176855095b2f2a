"""`headrace quantize`: the command around `calibration`, with texts in and a progress bar out."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headrace import config
from headrace.checkpoint.checkpoint import Checkpoint, open_checkpoint
from headrace.errors import StartupError
from headrace.observability import logging as log_setup
from headrace.serve.locate import locate
from headrace.text.tokenizer import load_tokenizer

log = logging.getLogger(__name__)

DEFAULT_GROUP_SIZE = {"gptq": 128, "int4": 32}


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Make a quantized checkpoint that Headrace, transformers and others read. "
        "A run that was killed goes on where it was when it is started again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model_id", metavar="MODEL", help="hub id or local folder, in floats")
    add("output", metavar="OUTPUT", type=Path, help="folder to write")
    add("--calibration", type=Path, metavar="FILE",
        help="plain text of the kind that the model will see; its last tenth is held out to "
        "measure perplexity. gptq needs one")  # fmt: skip
    add("--method", choices=["gptq", "int4"], default="gptq",
        help="int4: rounded to nearest, stored as compressed-tensors")  # fmt: skip
    add("--bits", type=int, choices=[4, 8], default=4)
    add("--group-size", "--groupsize", type=int, choices=[32, 64, 128, -1],
        default=argparse.SUPPRESS,
        help="inputs that share a scale, -1: all (default: 128, for int4 32)")  # fmt: skip
    add("--act-order", action="store_true", help="gptq: round the most active inputs first")
    add(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="no zero points, as most kernels for GPUs want it (default: for gptq, not for int4)",
    )
    add("--damping", "--percdamp", type=float, default=0.01,
        help="gptq: share of the mean diagonal added to the Hessian's")  # fmt: skip
    add("--sequences", type=int, default=128, help="of the text, to calibrate on")
    add("--sequence-length", type=int, default=512, help="in tokens")
    add("--revision", help="branch, tag or commit of the hub repository")
    return parser


def run(argv: Sequence[str], prog: str) -> int:
    """The exit code. Raises StartupError."""
    given = _parser(prog).parse_args(argv)
    log_setup.setup("info", False)
    settings, _ = config.resolve({"model_id": given.model_id, "revision": given.revision})
    located = locate(settings)
    if located.adapter is not None:
        raise StartupError(f"{given.model_id} is an adapter: merge it into its model first")
    _quantize(open_checkpoint(located.path), given)
    return 0


def _quantize(checkpoint: Checkpoint, given: argparse.Namespace) -> None:
    # Seconds of imports that a mistyped flag need not wait for.
    from headrace.calibration import Recipe, Windows, cut_windows, quantize

    _check(given)
    recipe = Recipe(
        method=given.method,
        bits=given.bits,
        group_size=getattr(given, "group_size", DEFAULT_GROUP_SIZE[given.method]),
        is_symmetric=getattr(given, "symmetric", given.method == "gptq"),
        is_act_order=given.act_order,
        damping=given.damping,
    )
    windows = Windows([], [])
    if given.calibration is not None:
        tokenizer = load_tokenizer(checkpoint)
        windows = cut_windows(
            tokenizer.encode(_read(given.calibration), add_special_tokens=False).ids,
            prefix=tokenizer.encode("").ids,
            length=given.sequence_length,
            count=given.sequences,
        )
        log.info(
            "calibrating on %d sequences of %d tokens", len(windows.calibration),
            given.sequence_length,
        )  # fmt: skip
    with LayerDisplay() as display:
        perplexity = quantize(checkpoint, windows, recipe, given.output, display.update)
    if perplexity is not None:
        print(f"perplexity {perplexity.before:.3f} before, {perplexity.after:.3f} after")
    print(given.output)


def _check(given: argparse.Namespace) -> None:
    if given.method == "gptq" and given.calibration is None:
        raise StartupError("--method gptq needs a text: --calibration FILE")
    if not given.damping > 0:
        raise StartupError(f"--damping {given.damping}: must be greater than 0")
    for name, least in {"sequences": 1, "sequence_length": 8}.items():
        if (value := getattr(given, name)) < least:
            raise StartupError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--calibration {path}: {error}") from None


class LayerDisplay:
    """Layers done and time left: a bar on a terminal, a log line for each layer elsewhere."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._bar: Any = None

    def __enter__(self) -> "LayerDisplay":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """`done` layers of `total` are quantized."""
        if self._began is None:
            self._began = self._clock()
            self._bar = _bar(total) if sys.stderr.isatty() else None
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
            return
        left = (self._clock() - self._began) / max(done, 1) * (total - done)
        is_under_way = 0 < done < total
        log.info("layer %d of %d%s", done, total, f", {left:.0f} s left" if is_under_way else "")


def _bar(total: int) -> Any:
    # A tenth of a second of imports that a service never needs.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("quantizing layers"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task("", total=total)
    bar.start()
    return bar
