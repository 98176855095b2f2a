"""Logits of OpenVINO's model of a GGUF file: runs under a Python that has `openvino` (and GenAI).

    python -m bench.openvino_logits GGUF WINDOWS.npy LOGITS.npy

WINDOWS: int64 [N, T]; LOGITS: float32 [N, T, V]. GenAI turns the file into a model, saved beside
it, which the CPU plugin compiles with its own defaults. Prints the bytes that this adds to the
process.
"""

import os
import sys
from pathlib import Path

import numpy as np
import openvino
import openvino_genai


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    gguf, source, target = map(Path, sys.argv[1:])
    openvino_genai.LLMPipeline(str(gguf), "CPU", enable_save_ov_model=True)
    before = resident()
    model = openvino.Core().compile_model(str(gguf.with_name("openvino_model.xml")), "CPU")
    request = model.create_infer_request()
    print(resident() - before)
    windows = np.load(source)
    positions = np.arange(windows.shape[1])[None]
    out = None
    for number, window in enumerate(windows):
        request.reset_state()
        request.infer({
            "input_ids": window[None], "attention_mask": np.ones_like(positions),
            "position_ids": positions, "beam_idx": np.zeros(1, np.int32),
        })  # fmt: skip
        logits = request.get_tensor("logits").data[0]
        if out is None:
            shape = (len(windows), *logits.shape)
            out = np.lib.format.open_memmap(target, "w+", np.float32, shape)
        out[number] = logits


if __name__ == "__main__":
    main()
