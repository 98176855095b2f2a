"""What of the machine each replica gets: cores, and CUDA devices where there are any.

Asks the operating system only; the host side never imports torch.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace.config import Settings, visible_cuda_devices
from headrace.errors import StartupError


@dataclass(frozen=True)
class Share:
    """Of one replica."""

    cores: list[int]
    """To which its process is bound; empty: any."""
    cuda_devices: list[str]
    """That its process sees, as in CUDA_VISIBLE_DEVICES; empty: as this process does."""


def shares(settings: Settings, cores: Sequence[int], cuda_devices: Sequence[str]) -> list[Share]:
    """One per replica. Raises StartupError when there are fewer CUDA devices than asked for."""
    count, ranks = settings.num_replica, settings.num_shard or 1
    if count == 1:
        return [Share([], [])]
    devices: list[list[str]] = [[] for _ in range(count)]
    if cuda_devices and settings.device != "cpu":
        if len(cuda_devices) < count * ranks:
            raise StartupError(
                f"--num-replica {count} with {ranks} shards each needs {count * ranks} CUDA "
                f"devices; {len(cuda_devices)} are visible"
            )
        devices = [list(cuda_devices[i * ranks : (i + 1) * ranks]) for i in range(count)]
    return [Share(_cores_of(replica, count, cores), own) for replica, own in enumerate(devices)]


def _cores_of(replica: int, count: int, cores: Sequence[int]) -> list[int]:
    """Neighbours, so that a replica stays within a socket; with too few cores all share them."""
    if len(cores) < count:
        return []
    return list(cores[replica * len(cores) // count : (replica + 1) * len(cores) // count])


def usable_cores() -> list[int]:
    """That the affinity of this process allows; [] where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def interface_of(address: str) -> str | None:
    """The network interface that has this IP address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return name
    return None


def cuda_devices() -> list[str]:
    """That a child of this process would see."""
    found = sorted(path.name for path in Path("/proc/driver/nvidia/gpus").glob("*"))
    chosen = visible_cuda_devices()
    return [str(i) for i in range(len(found))] if chosen is None else chosen if found else []
