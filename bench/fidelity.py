"""How near to float32 each way of running the embedded model is, ours and others', on real text.

    python bench/fidelity.py [--llama-folder DIR] [--openvino PYTHON] [--tokens 4096]

Mean KL divergence (nats) to the same dequantized weights run in float32, the share of positions
with the same likeliest token, and the mean absolute difference of the real next token's
log-probability; over the second half of each window of 512 tokens. llama.cpp is measured by its own
llama-perplexity; OpenVINO GenAI gives log-probabilities of the prompt's tokens only.
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from pydoc_data import topics

import torch

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.kernels import load as load_kernels
from headrace.models.load import LoadOptions, load_model
from headrace.runner.batch import BatchBuffers
from headrace.runner.recorded import RecordedDecoder
from headrace.text.tokenizer import load_tokenizer

WINDOW = 512
BLOCKS = WINDOW // 32
FLOAT32 = LoadOptions(dtype=torch.float32, device=torch.device("cpu"), kv_dtype=torch.float32)


def text() -> str:
    """English prose that every Python has: the topics of its help system."""
    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


class Probe:
    """One way to run a model, as the server would."""

    def __init__(self, path: Path, options: LoadOptions) -> None:
        decoder, self._backend = load_model(open_checkpoint(path), options)
        self._backend.allocate(BLOCKS + 1)
        buffers = BatchBuffers(WINDOW, 1, BLOCKS, 32, torch.device("cpu"), is_fixed=True)
        self.model = RecordedDecoder(decoder, buffers, WINDOW) if options.kernels else decoder
        self.weight_bytes = decoder.weight_bytes
        self._token_ids, self._batch = buffers.everything()

    def logits(self, windows: list[list[int]]) -> Iterator[torch.Tensor]:
        """[512, V] of each window."""
        for window in windows:
            self._token_ids[:] = torch.tensor(window)
            yield self._run(0, WINDOW).clone()

    def tokens_per_second(self, context: int = 150, repeats: int = 40) -> float:
        """Of one sequence's decode, head included; the median."""
        samples = []
        for _ in range(repeats):
            begin = time.perf_counter()
            self._run(context, 1)
            samples.append(time.perf_counter() - begin)
        return 1 / statistics.median(samples)

    @torch.inference_mode()
    def _run(self, first: int, count: int) -> torch.Tensor:
        batch = self._batch
        batch.positions[:count] = torch.arange(first, first + count)
        batch.slot_mapping[:count] = torch.arange(32 + first, 32 + first + count)
        batch.query_start[1], batch.context_lens[0] = count, first + count
        batch.block_table[0] = torch.arange(1, BLOCKS + 1)
        part = replace(
            batch, positions=batch.positions[:count], slot_mapping=batch.slot_mapping[:count],
            max_query_len=count, max_context_len=first + count,
        )  # fmt: skip
        # A window is a prompt; a single token stands behind one.
        num_prompt = count if count > 1 else 0
        part.num_prompt_tokens = num_prompt
        hidden = self.model.forward(self._token_ids[:count], part)
        return self.model.logits(hidden, num_prompt)


def scored(logits: torch.Tensor) -> torch.Tensor:
    """Those of a window's second half that have a next token, [255, V]."""
    return logits[WINDOW // 2 : -1]


def reference_logits(path: Path, windows: list[list[int]]) -> list[torch.Tensor]:
    """What `compare` compares with: the model in float32."""
    return [scored(logits).clone() for logits in Probe(path, FLOAT32).logits(windows)]


def compare(
    windows: list[list[int]], ours: Probe, reference: list[torch.Tensor]
) -> dict[str, float]:
    """Over the second half of each window."""
    half = WINDOW // 2
    sums = torch.zeros(4, dtype=torch.float64)
    for window, logits, exact in zip(windows, ours.logits(windows), reference, strict=True):
        got, wanted = (x.double().log_softmax(-1) for x in (scored(logits), exact))
        following = torch.tensor(window[half + 1 :])[:, None]
        sums[0] += (wanted.exp() * (wanted - got)).sum()
        sums[1] += (wanted.argmax(-1) == got.argmax(-1)).sum()
        sums[2] += (wanted.gather(1, following) - got.gather(1, following)).abs().sum()
        sums[3] -= got.gather(1, following).sum()
    kl, same, difference, loss = (sums / (len(windows) * (half - 1))).tolist()
    return {
        "kl": kl, "same_top": same, "logprob_difference": difference, "perplexity": math.exp(loss),
    }  # fmt: skip


def text_windows(tokens: int) -> list[list[int]]:
    """Token ids of `text`, cut into windows."""
    tokenizer = load_tokenizer(open_checkpoint(embedded_model()))
    ids = tokenizer.encode(text()[: 8 * tokens], False).ids[:tokens]
    return [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]


def llama_perplexity(folder: Path, source: Path, length: int) -> dict[str, float]:
    """Quantized against float32, both by llama.cpp."""
    with tempfile.TemporaryDirectory() as scratch:
        exact, base = Path(scratch, "f32.gguf"), Path(scratch, "logits.bin")
        quantize = [folder / "llama-quantize", "--allow-requantize", embedded_model(), exact, "F32"]
        subprocess.run(quantize, check=True, capture_output=True)
        # Without repacking: its AMX kernels crash on some virtual machines.
        run = [folder / "llama-perplexity", "-f", source, "-c", str(WINDOW), "-t", "2"]
        run.append("--no-repack")
        run += ["--chunks", str(length // WINDOW), "--kl-divergence-base", base]
        subprocess.run([*run, "-m", exact], check=True, capture_output=True)
        command = [*run, "-m", embedded_model(), "--kl-divergence"]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kl = re.search(r"Mean\s+KLD:\s+([\d.]+)", report)
    same = re.search(r"Same top p:\s+([\d.]+)", report)
    assert kl and same, report
    return {"kl": float(kl[1]), "same_top": float(same[1]) / 100}


OPENVINO = """
import json, sys
import openvino_genai as genai
windows = json.load(sys.stdin)
scheduler = genai.SchedulerConfig(); scheduler.cache_size = 1
scheduler.enable_prefix_caching = False
pipeline = genai.ContinuousBatchingPipeline(sys.argv[1], scheduler, "CPU")
import numpy as np, openvino as ov
config = genai.GenerationConfig(); config.max_new_tokens = 1; config.echo = True
config.logprobs = 1; config.apply_chat_template = False
out = []
for index, window in enumerate(windows):
    handle = pipeline.add_request(index, ov.Tensor(np.array([window], dtype=np.int64)), config)
    while pipeline.has_non_finished_requests(): pipeline.step()
    out.append(list(handle.read_all()[0].generated_log_probs))
print(json.dumps(out))
"""


def openvino(python: str, windows: list[list[int]]) -> dict[str, float]:
    """Mean absolute difference of the real next tokens' log-probabilities."""
    result = subprocess.run(
        [python, "-c", OPENVINO, str(embedded_model())], input=json.dumps(windows), text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    theirs = json.loads(result.stdout.splitlines()[-1])
    half, total, count = WINDOW // 2, 0.0, 0
    reference = Probe(embedded_model(), FLOAT32).logits(windows)
    for window, values, logits in zip(windows, theirs, reference, strict=True):
        wanted = logits[:-1].double().log_softmax(-1)
        wanted = wanted.gather(1, torch.tensor(window[1:])[:, None])[half:, 0]
        # One value per prompt token (the first token's means nothing), then the new token's.
        got = torch.tensor(values[half + 1 : WINDOW], dtype=torch.float64)
        total += float((wanted - got).abs().sum())
        count += len(got)
    return {"logprob_difference": total / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-folder", type=Path, help="folder with llama-perplexity")
    parser.add_argument("--openvino", help="a Python with openvino_genai")
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args()
    kernels = load_kernels("native")
    kernels.set_num_threads(2)
    windows = text_windows(options.tokens)
    reference = reference_logits(embedded_model(), windows)
    native = replace(FLOAT32, kernels=kernels)
    for name, variant in {
        "int8 activations, float16 cache": replace(native, kv_dtype=torch.float16),
        "int8 activations, int8 cache": replace(native, kv_dtype=torch.int8),
        "bfloat16 activations of prompts, float16 cache": replace(
            native, kv_dtype=torch.float16, prompt_dtype=torch.bfloat16
        ),
        "exact activations, float16 cache": replace(
            native, kv_dtype=torch.float16, exact_activations=True
        ),
    }.items():
        ours = Probe(embedded_model(), variant)
        print(f"headrace, {name}: {compare(windows, ours, reference)}", flush=True)
    if options.llama_folder:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as source:
            source.write(text()[: 8 * options.tokens])
            source.flush()
            report = llama_perplexity(options.llama_folder, Path(source.name), options.tokens)
        print(f"llama.cpp: {report}", flush=True)
    if options.openvino:
        print(f"openvino: {openvino(options.openvino, windows)}")


if __name__ == "__main__":
    main()
