"""A real server process for end-to-end tests."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """`headrace serve` with the given arguments, its log kept for assertions."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = Path(tempfile.mkstemp(suffix=".log")[1])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "serve", "--hostname", "127.0.0.1",
                 "--port", str(self.port), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip

    def wait_ready(self, timeout: float = 60.0) -> "ServerProcess":
        """Until the port opens, which it does only when the model answers."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended early:\n{self.output}")
            try:
                if httpx.get(f"{self.url}/health", timeout=10).status_code == 200:
                    return self
            except httpx.ConnectError:
                time.sleep(0.02)
        raise TimeoutError(self.output)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def engine(self) -> psutil.Process:
        """The engine process, a child of the server."""
        (engine,) = self.engines
        return engine

    @property
    def engines(self) -> list[psutil.Process]:
        """One per replica."""
        children = psutil.Process(self.process.pid).children()
        return [c for c in children if any("engine_process" in a for a in c.cmdline())]

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        match = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert match, f"{name} is not in\n{text}"
        return float(match[1])

    def stop(self, sig: int = signal.SIGTERM, timeout: float = 30.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(timeout)

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.log.unlink(missing_ok=True)
