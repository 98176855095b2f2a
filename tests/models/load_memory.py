"""Run as a module: load a checkpoint and print the memory that it took; see test_load_memory."""

import json
import sys
import time
from pathlib import Path

import torch

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import resolve
from headrace.distributed.ranks import OneRank
from headrace.distributed.shard import Shard
from headrace.kernels import TorchKernels
from headrace.models.load import LoadOptions, load_model
from headrace.runner.device import choose_kernels


def resident(line: str) -> int:
    """Bytes of this process in memory, those mapped from files included: now ("VmRSS"), or the
    most there were ("VmHWM")."""
    status = Path("/proc/self/status").read_text()
    (found,) = (words for words in map(str.split, status.splitlines()) if words[0] == f"{line}:")
    return int(found[1]) * 1024


def main(folder: Path, kernels: str, dtype: torch.dtype, num_ranks: int) -> None:
    torch.set_num_threads(1)
    settings, _ = resolve({"kernels": kernels}, environ={})
    device = torch.device("cpu")
    chosen = choose_kernels(settings, device)
    ranks = OneRank()
    ranks.shard = Shard(0, num_ranks)
    options = LoadOptions(
        dtype=dtype,
        device=device,
        kv_dtype=dtype,
        kernels=None if isinstance(chosen, TorchKernels) else chosen,
        ranks=ranks,
    )
    checkpoint = open_checkpoint(folder)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is now
    began = time.perf_counter()
    decoder, _ = load_model(checkpoint, options)
    seconds = time.perf_counter() - began
    peak = resident("VmHWM") - before
    report = {"weights": decoder.weight_bytes, "peak": peak, "seconds": seconds}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], getattr(torch, sys.argv[3]), int(sys.argv[4]))
