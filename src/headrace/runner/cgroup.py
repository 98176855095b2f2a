"""What the control group of this process allows: memory and cores, versions 1 and 2.

Knows the files of the kernel's cgroup documentation; nothing of what they are used for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60
"""Version 1 has no word for it and writes a number near 2**63."""


@dataclass(frozen=True)
class ControlGroup:
    """The groups of one process, as mounted."""

    mount: Path = Path("/sys/fs/cgroup")
    membership: Path = Path("/proc/self/cgroup")

    def available_memory(self) -> int | None:
        """Bytes until the tightest limit, reclaimable pages counted as free; None: no limit."""
        available = [_available_memory(folder) for folder in self._folders("memory")]
        return min((value for value in available if value is not None), default=None)

    def num_cores(self) -> float | None:
        """Cores' worth of time that the tightest quota gives; None: no quota."""
        cores = [_num_cores(folder) for folder in self._folders("cpu")]
        return min((value for value in cores if value is not None), default=None)

    def _folders(self, controller: str) -> Iterator[Path]:
        """Of both versions, from the process's own group up to the root of the mount.

        Inside a container the path often names a folder of the host, which is not mounted; the
        container's own group is the root of the mount then.
        """
        if not self.membership.exists():
            return
        for line in self.membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                root = self.mount / controllers
                folder = root / path.lstrip("/")
                yield from (f for f in (folder, *folder.parents) if f.is_relative_to(root))


def _available_memory(folder: Path) -> int | None:
    for limit_name, usage_name, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _read(folder / limit_name)
        if limit and limit != "max" and int(limit) < UNLIMITED:
            stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            used = int(_read(folder / usage_name)) - int(stat.get(reclaimable, 0))
            return max(0, int(limit) - used)
    return None


def _num_cores(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not quota or quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""
