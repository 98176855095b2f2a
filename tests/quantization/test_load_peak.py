"""What loading takes beside the weights that stay: never the whole model in full precision."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.kernels import load as load_kernels
from headrace.models.load import LoadOptions, load_model
from tests.fresh_process import in_a_fresh_process
from tests.models.checkpoints import make_checkpoint
from tests.quantization.checkpoints import write_quantized
from tests.quantization.formats import FORMATS

SHAPE = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 16}
"""Many matrices of half a million numbers."""


def anonymous() -> int:
    """Bytes of this process that are in memory and of no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def load_peak(path: Path, quantize: str | None) -> tuple[int, int]:
    """Most bytes while loading, more than before, and those of the weights."""
    kernels = load_kernels()
    kernels.set_num_threads(1)
    torch.set_num_threads(1)
    options = LoadOptions(
        dtype=torch.float32, device=torch.device("cpu"), kernels=kernels, quantize=quantize
    )
    before, most, is_done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_done.is_set():
            most = max(most, anonymous())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model, _ = load_model(open_checkpoint(path), options)
    is_done.set()
    watcher.join()
    return most - before, model.weight_bytes


def check(path: Path, model: Any, quantize: str | None) -> None:
    """The peak while loading `path`, which holds the numbers of transformers' `model`."""
    peak, weights = in_a_fresh_process(load_peak, path, quantize)
    floats = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert peak < weights + 0.3 * floats


needs_linux = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads Linux' /proc"
)


@needs_linux
@pytest.mark.parametrize("quantize", ["int4", "eetq", "bitsandbytes-nf4", "fp8"])
def test_loading_holds_one_layer_in_floats(quantize: str, tmp_path: Path) -> None:
    check(tmp_path, make_checkpoint(tmp_path, "LlamaForCausalLM", SHAPE), quantize)


STORED = (
    "gptq-4bit-32-sym", "gptq-4bit-act-order", "gptq-3bit", "gptq-8bit", "awq-32",
    "ct-w4a16-asym", "ct-w4a16-act-order", "ct-w8a8", "ct-fp8-channel", "fp8-blocks",
    "bitsandbytes-nf4-nested", "bitsandbytes-fp4", "bitsandbytes-8bit",
)  # fmt: skip


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize("name", STORED)
def test_quantized_checkpoints_are_never_floats_as_a_whole(name: str, tmp_path: Path) -> None:
    check(tmp_path, write_quantized(tmp_path, FORMATS[name], **SHAPE), None)
