"""The checks that need a GPU, all tests marked "cuda": `make check-gpu`."""

import os
import subprocess
import sys

import torch

NOTHING = "no CUDA device: nothing was checked"


def main(*arguments: str) -> int:
    """`arguments` are pytest's."""
    if not torch.cuda.is_available():
        print(NOTHING)
        return 0
    print(f"on {torch.cuda.get_device_name()}, with torch {torch.__version__}", flush=True)
    # Triton is to compile for the device, not for its interpreter.
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", *arguments]
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
