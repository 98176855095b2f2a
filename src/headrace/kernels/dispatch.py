"""Chooses the kernels: the best compiled module whose instructions this CPU has, or the twins."""

import importlib
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal

from headrace.kernels.base import Kernels
from headrace.kernels.native import NativeKernels
from headrace.kernels.twins import TorchKernels

Choice = Literal["auto", "native", "torch"]

AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "fma", "f16c"})
# Best first: module name and the CPU features, by Linux's names, that its code uses.
MODULES: dict[str, frozenset[str]] = {
    "_amx": AVX512 | {"avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
    "_avx512_bf16": AVX512 | {"avx512_bf16"},
    "_avx512": AVX512,
    "_avxvnni": frozenset({"avx2", "avx_vnni", "fma", "f16c"}),
    "_avx2": frozenset({"avx2", "fma", "f16c"}),
    "_neon": frozenset({"asimd", "asimddp"}),
}


def cpu_features() -> frozenset[str]:
    """Features that processor and operating system support, by Linux's names."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return MODULES["_neon"]  # every Apple processor with macOS has dot products
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def native_modules() -> Iterator[ModuleType]:
    """Compiled modules that this CPU can run, best first."""
    features = cpu_features()
    for name, needed in MODULES.items():
        if needed <= features:
            try:
                yield importlib.import_module(f"headrace.kernels.{name}")
            except ImportError:
                continue  # not built by this compiler, or not permitted by the system


def load(choice: Choice = "auto") -> Kernels:
    """Return the kernels to use; `reason` says which and why.

    "auto" takes compiled kernels if there are any. Raises ValueError if "native" is asked for
    and no compiled module fits.
    """
    if choice == "torch":
        return TorchKernels("plain torch: asked for")
    for module in native_modules():
        return NativeKernels(module, f"{module.isa}: compiled kernels")
    reason = "no compiled module for this CPU was built (no compiler?)"
    if choice == "native":
        raise ValueError(f"native kernels: {reason}")
    return TorchKernels(f"plain torch: {reason}")
