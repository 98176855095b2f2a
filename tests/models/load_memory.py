"""Run as a module: load a checkpoint and print the memory that it took; see test_load_memory."""

import json
import sys
import threading
import time
from pathlib import Path

import torch

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.config import resolve
from headrace.kernels import TorchKernels
from headrace.models.load import LoadOptions, load_model
from headrace.runner.device import choose_kernels


def resident() -> int:
    """Bytes of this process in memory, those mapped from files included."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


class Peak(threading.Thread):
    """The most that was resident while it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.value = 0
        self.is_done = False

    def run(self) -> None:
        while not self.is_done:
            self.value = max(self.value, resident())
            time.sleep(0.001)


def main(folder: Path, kernels: str, dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    settings, _ = resolve({"kernels": kernels}, environ={})
    device = torch.device("cpu")
    chosen = choose_kernels(settings, device)
    options = LoadOptions(
        dtype=dtype,
        device=device,
        kv_dtype=dtype,
        kernels=None if isinstance(chosen, TorchKernels) else chosen,
    )
    checkpoint = open_checkpoint(folder)
    before, peak = resident(), Peak()
    peak.start()
    began = time.perf_counter()
    decoder, _ = load_model(checkpoint, options)
    seconds = time.perf_counter() - began
    peak.is_done = True
    peak.join()
    report = {"weights": decoder.weight_bytes, "peak": peak.value - before, "seconds": seconds}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], getattr(torch, sys.argv[3]))
