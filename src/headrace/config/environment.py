"""What is read from the environment beside the settings, and what child processes get of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HubAccess:
    """What the environment says about the Hugging Face hub."""

    token: str | None
    offline: bool


def hub_access(environ: Mapping[str, str] | None = None) -> HubAccess:
    """Read HF_TOKEN (or its older names) and HF_HUB_OFFLINE."""
    environment = os.environ if environ is None else environ
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN")
    token = next((environment[name] for name in names if environment.get(name)), None)
    offline = environment.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    return HubAccess(token=token, offline=offline)


def visible_cuda_devices(environ: Mapping[str, str] | None = None) -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES names; None without it, which means all."""
    names = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return None
    return [name.strip() for name in names.split(",") if name.strip() not in {"", "-1", "void"}]


def ray_address(environ: Mapping[str, str] | None = None) -> tuple[str, int] | None:
    """Host and port in RAY_ADDRESS; None where it names none ("auto", or no value)."""
    value = (os.environ if environ is None else environ).get("RAY_ADDRESS", "")
    host, _, port = value.removeprefix("ray://").rpartition(":")
    return (host, int(port)) if host and port.isdecimal() else None


def child_environment(
    cuda_devices: Sequence[str] = (), interface: str | None = None
) -> dict[str, str]:
    """What the engine process inherits: everything, plus OpenMP threads that sleep when idle.

    The front end shares the cores with it, so torch's worker threads must not spin between
    parallel regions. `cuda_devices`: those that it shall see, if not all. `interface`: of the
    network on which it meets ranks of other hosts, unless the environment says so.
    """
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", **os.environ}
    if cuda_devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(cuda_devices)
    if interface is not None:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            environment.setdefault(name, interface)
    return environment
