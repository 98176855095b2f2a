"""What `fidelity.py` measures of our models, of other engines on the same GGUF file."""

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.fidelity import CONTEXT, ROWS, WINDOW, compare, text
from bench.peers.engines import Load, OpenVinoEngine
from headrace.checkpoint.gguf import GGUFFile

Figures = dict[str, float]
NEW_TOKENS = 65


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO GenAI: logits of the model that it makes, speed of its pipeline."""

    python: str
    model: Path

    def fidelity(self, windows: list[list[int]], reference: list[Tensor]) -> Figures:
        script = Path(__file__).with_name("openvino_logits.py")
        with tempfile.TemporaryDirectory() as scratch:
            gguf, source, target = (Path(scratch, n) for n in ("model.gguf", "in.npy", "out.npy"))
            shutil.copyfile(self.model, gguf)
            np.save(source, np.array(windows, dtype=np.int64))
            command = [self.python, str(script), *map(str, (gguf, source, target))]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            logits = map(torch.from_numpy, np.load(target, mmap_mode="c"))
            figures = compare(windows, logits, reference)
        return figures | {"megabytes": int(run.stdout.split()[-1]) / 1e6}

    def speed(self) -> Figures:
        engine = OpenVinoEngine(self.python, self.model)
        try:
            _seconds(engine, 1, CONTEXT, 8)  # warm
            return {
                "one_row": _decode(engine, 1),
                "eight_rows": _decode(engine, ROWS),
                "prompt": WINDOW / _seconds(engine, 1, WINDOW, 1),
            }
        finally:
            engine.process.kill()


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp's own tools, without repacking: its AMX kernels crash on some virtual machines."""

    folder: Path
    """With llama-perplexity, llama-quantize, llama-bench and llama-batched-bench."""
    model: Path

    def fidelity(self, windows: list[list[int]], reference: list[Tensor]) -> Figures:
        """Against its own float32; it cuts the same text into the same windows."""
        with tempfile.TemporaryDirectory() as scratch:
            source, exact, base = (Path(scratch, n) for n in ("text", "f32.gguf", "base"))
            source.write_text(text()[: 8 * WINDOW * len(windows)])
            self._call("llama-quantize", "--allow-requantize", self.model, exact, "F32")
            run = ["-f", source, "-c", WINDOW, "-t", 2, "--no-repack"]
            run += ["--chunks", len(windows), "--kl-divergence-base", base]
            self._call("llama-perplexity", *run, "-m", exact)
            report = self._call("llama-perplexity", *run, "-m", self.model, "--kl-divergence")

        def found(pattern: str) -> float:
            match = re.search(pattern + r"\s*([\d.]+)", report)
            assert match, report
            return float(match[1])

        return {
            "kl": found(r"Mean\s+KLD:"),
            "same_top": found(r"Same top p:") / 100,
            "perplexity": found(r"Mean PPL\(Q\)\s*:"),
            "megabytes": sum(t.nbytes for t in GGUFFile(self.model).tensors.values()) / 1e6,
        }

    def speed(self) -> Figures:
        common = ["-m", self.model, "-t", 2]
        report = self._call("llama-bench", *common, "--repack", 0, "-p", WINDOW, "-n", 64, "-o",
                            "json")  # fmt: skip
        prompt, one_row = (run["avg_ts"] for run in json.loads(report))
        batched = ["-npp", CONTEXT, "-ntg", 64, "-npl", ROWS, "-c", 4096, "--no-repack"]
        report = self._call("llama-batched-bench", *common, *batched, "--output-format", "jsonl")
        rows = json.loads(report.strip().splitlines()[-1])
        return {"one_row": one_row, "eight_rows": rows["speed_tg"], "prompt": prompt}

    def _call(self, tool: str, *arguments: object) -> str:
        command = [str(self.folder / tool), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _decode(engine: OpenVinoEngine, rows: int) -> float:
    """Tokens per second of decode: a run with many new tokens, less one with a single one."""
    many = _seconds(engine, rows, CONTEXT, NEW_TOKENS)
    one = _seconds(engine, rows, CONTEXT, 1)
    return rows * (NEW_TOKENS - 1) / (many - one)


def _seconds(engine: OpenVinoEngine, rows: int, prompt_tokens: int, new_tokens: int) -> float:
    load = Load(streams=rows, prompt_tokens=prompt_tokens, new_tokens=new_tokens, requests=rows)
    # A seed of its own, so that no prompt is in the prefix cache.
    seed = hash((rows, prompt_tokens, new_tokens))
    return rows * new_tokens / engine.measure(load, seed)["output"]
