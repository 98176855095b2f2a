"""Memory and its use over time, of all processes of one engine."""

import os
import threading
import time
from pathlib import Path


def processes(leader: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [leader]
    for pid in found:
        found += children.get(pid, [])
    return found


def resident_bytes(leader: int) -> dict[str, int]:
    """By process, its proportional set size: what several processes share counts once, also where
    others than these map the same libraries."""
    sizes = {}
    for pid in processes(leader):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name = next((word for word in words if word.startswith("headrace")), words[0])
        sizes[f"{name} {pid}"] = sum(
            int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")
        )
    return sizes


def cpu_seconds(pid: int) -> float:
    """Of all threads, user and system, since the process began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class MemoryWatch:
    """Use as a context; `samples` are (seconds, bytes) since then."""

    def __init__(self, leader: int, interval: float) -> None:
        self.samples: list[tuple[float, int]] = []
        self._leader = leader
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(self._interval):
            size = sum(resident_bytes(self._leader).values())
            self.samples.append((time.monotonic() - began, size))
