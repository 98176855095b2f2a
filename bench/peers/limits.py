"""What the machine can do at most, measured by `limits.cpp`, and what part of it an engine uses."""

import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.peers.engines import Figures, Load
from bench.peers.models import Size

Limits = dict[str, float]
OPERATIONS = ("fma", "vnni", "amx_int8", "amx_bf16")


def measure_limits() -> Limits:
    """`cores`; reads in GB/s of 96 and 512 MB; multiply-adds in GOP/s: `fma` (float32), `vnni`,
    `amx_int8`, `amx_bf16`, as far as the machine has them. Empty on other processors than x86."""
    if platform.machine() != "x86_64":
        return {}
    compiler = os.environ.get("CXX", "g++")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "limits")
        source = Path(__file__).with_name("limits.cpp")
        flags = ["-O3", "-mavx2", "-std=c++17", "-pthread"]
        subprocess.run([compiler, *flags, source, "-o", program], check=True)
        output = subprocess.run([program], check=True, stdout=subprocess.PIPE).stdout
    limits: Limits = json.loads(output)
    return limits


def fractions(figures: Figures, load: Load, size: Size, limits: Limits) -> dict[str, Any]:
    """Of memory bandwidth, where each step of `load.streams` tokens reads all weights once; and of
    each kind of arithmetic. Attention is counted in neither."""
    is_prefill = load.new_tokens == 1
    rate = figures["input" if is_prefill else "output"]
    used = {
        name: rate * size.operations / 1e9 / limits[name] for name in limits if name in OPERATIONS
    }
    if not is_prefill and limits:
        read = rate / load.streams * size.weight_bytes / 1e9
        used["bandwidth"] = read / limits["read_96_mb"]
    return used
