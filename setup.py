"""The native kernels, one extension for each instruction set; all else is in pyproject.toml.

Each is optional: what the compiler cannot build is left out, and the kernels choose at run time
among what is there.
"""

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("src/headrace/kernels/csrc")

AVX512 = "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c"
X86 = {
    "_amx": f"{AVX512} -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16",
    "_avx512_bf16": f"{AVX512} -mavx512bf16",
    "_avx512": AVX512,
    "_avxvnni": "-mavx2 -mavxvnni -mfma -mf16c",
    "_avx2": "-mavx2 -mfma -mf16c",
}
ARM = {"_neon": "-march=armv8.2-a+dotprod+fp16"}
# Contraction off: a row's rounding must not depend on how the compiler fuses each loop.
COMMON = "-std=c++17 -O3 -ffp-contract=off -fvisibility=hidden -g0 -pthread -Wall -Wextra"


def instruction_sets() -> dict[str, str]:
    if sys.platform == "win32":
        return {}
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return X86
    return ARM if machine in ("aarch64", "arm64") else {}


def extension(name: str, flags: str) -> Extension:
    return Extension(
        f"headrace.kernels.{name}",
        sources=sorted(str(path) for path in SOURCES.glob("*.cpp")),
        depends=sorted(str(path) for path in SOURCES.glob("*.h")),
        define_macros=[("Py_LIMITED_API", "0x030B0000"), ("HEADRACE_MODULE", name)],
        extra_compile_args=[*COMMON.split(), *flags.split()],
        extra_link_args=["-pthread"],
        language="c++",
        py_limited_api=True,
        optional=True,
    )


class BuildKernels(build_ext):
    """Gives each extension its own objects, as all compile the same sources."""

    def build_extension(self, ext: Extension) -> None:
        shared, self.build_temp = self.build_temp, f"{self.build_temp}/{ext.name}"
        try:
            super().build_extension(ext)
        finally:
            self.build_temp = shared


setup(
    ext_modules=[extension(name, flags) for name, flags in instruction_sets().items()],
    cmdclass={"build_ext": BuildKernels},
)
