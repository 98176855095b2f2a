"""The device of this process: which one, its types of number, its threads, its free memory."""

import math
import os

import psutil
import torch

from headrace.config import Settings
from headrace.distributed.ranks import Ranks
from headrace.errors import StartupError
from headrace.kernels import Kernels, TorchKernels
from headrace.kernels import load as load_kernels
from headrace.runner.cgroup import ControlGroup

USABLE_SHARE_OF_CUDA = 0.9
"""Of --cuda-memory-fraction; the rest is for activations, logits and the allocator's own loss."""


def choose_device(settings: Settings, index: int = 0) -> torch.device:
    """The CPU, or the GPU of this number. Raises StartupError for `--device cuda` without one."""
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise StartupError("--device cuda: no CUDA device is visible; use --device cpu or auto")
    if settings.device == "cpu" or not has_cuda:
        return torch.device("cpu")
    if index >= torch.cuda.device_count():
        raise StartupError(
            f"--num-shard: no CUDA device for rank {index}; {torch.cuda.device_count()} are visible"
        )
    return torch.device("cuda", index)


def choose_dtype(
    settings: Settings, checkpoint_dtype: str | None, device: torch.device
) -> torch.dtype:
    """Of parameters and arithmetic: as asked, else the checkpoint's on CUDA, float32 on the CPU."""
    by_default = "float32" if device.type == "cpu" else checkpoint_dtype or "float16"
    dtype = getattr(torch, settings.dtype or by_default)
    assert isinstance(dtype, torch.dtype)
    return dtype


def choose_kernels(settings: Settings, device: torch.device) -> Kernels:
    """The CPU kernels, or their torch twins with the reason. Raises StartupError when native
    ones are asked for and there are none for this device."""
    if device.type != "cpu":
        if settings.kernels == "native":
            raise StartupError(f"--kernels native: there are none for {device.type}")
        return TorchKernels(f"plain torch on {device.type}")
    choice = "torch" if settings.disable_custom_kernels else settings.kernels
    try:
        return load_kernels(choice)
    except ValueError as error:
        raise StartupError(f"--kernels {choice}: {error}") from None


def choose_prompt_dtype(settings: Settings, kernels: Kernels, ranks: Ranks) -> torch.dtype | None:
    """Of activations at prompt positions where those at generated ones are int8; None: int8 too.

    The same on all ranks, whatever their CPUs."""
    is_quicker = kernels.has_bfloat16_tiles and settings.activations == "auto"
    return torch.bfloat16 if ranks.minimum(int(is_quicker)) else None


def choose_kv_dtype(settings: Settings) -> torch.dtype | None:
    """Of the cached keys and values; None leaves it to what the model runs on."""
    if settings.kv_cache_dtype == "auto":
        return None
    kv_dtype = getattr(torch, settings.kv_cache_dtype.replace("fp8", "float8"))
    assert isinstance(kv_dtype, torch.dtype)
    return kv_dtype


def describe(device: torch.device) -> str:
    """For people: "cpu", "cuda:0 NVIDIA H100"."""
    if device.type == "cpu":
        return "cpu"
    return f"{device} {torch.cuda.get_device_name(device)}"


def num_threads(settings: Settings, group: ControlGroup | None = None) -> int:
    """Compute threads: as asked, else the cores that affinity and the control group leave."""
    if settings.cpu_threads is not None:
        return settings.cpu_threads
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else psutil.cpu_count() or 1
    quota = (group or ControlGroup()).num_cores()
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))


def available_memory(device: torch.device, cuda_memory_fraction: float) -> int:
    """Bytes that this process may still allocate on the device."""
    if device.type == "cpu":
        limits = (psutil.virtual_memory().available, ControlGroup().available_memory())
        return min(limit for limit in limits if limit is not None)
    free, total = torch.cuda.mem_get_info(device)
    ours = torch.cuda.memory_reserved(device)
    usable = int(total * cuda_memory_fraction * USABLE_SHARE_OF_CUDA)
    return max(0, min(usable - ours, int(free * USABLE_SHARE_OF_CUDA)))
