"""Render templates in a process of their own, which can be killed.

A template is a program out of an untrusted checkpoint. Nothing inside Python bounds the time and
memory of every operation it may call, but a deadline and a memory limit on a process do.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from headrace.errors import TemplateError

MAX_SECONDS = 5.0
"""For one rendering; ordinary ones take milliseconds at most."""
MAX_OUTPUT = 1 << 26
"""Bytes of one answer."""
_CHUNK = 1 << 16


class TemplateProcess:
    """Starts the process at once, and again after it had to be killed. Thread-safe."""

    def __init__(self, sources: Mapping[str, str], max_seconds: float = MAX_SECONDS) -> None:
        self._sources = json.dumps(dict(sources)).encode() + b"\n"
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self._start()

    def render(self, name: str, variables: Mapping[str, Any]) -> str:
        """Raises TemplateError when the template fails or exceeds its limits."""
        request = json.dumps([name, variables]).encode() + b"\n"
        with self._lock:
            if self._process.poll() is not None:
                self._start()
            try:
                self._send(request)
                is_rendered, text = json.loads(self._receive())
            except OSError as error:
                self._finalizer()
                raise TemplateError(str(error)) from None
        if not is_rendered:
            raise TemplateError(text)
        return str(text)

    def close(self) -> None:
        """End the process. May be called more than once."""
        self._finalizer()

    def _start(self) -> None:
        # -P: a module of the same name in the current folder must not be imported instead.
        command = [sys.executable, "-P", "-m", "headrace.text.template_worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._finalizer = weakref.finalize(self, _end, self._process)
        self._send(self._sources)

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def _receive(self) -> bytes:
        """One line of any length, before the deadline."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(output, select.POLLIN)
        deadline = time.monotonic() + self._max_seconds
        answer = bytearray()
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(1000 * left):
                raise TimeoutError(f"rendering took more than {self._max_seconds:g} seconds")
            chunk = os.read(output, _CHUNK)
            if not chunk:
                raise OSError("rendering ended the process (too much memory or recursion)")
            answer += chunk
            if len(answer) > MAX_OUTPUT:
                raise OSError(f"the result has more than {MAX_OUTPUT} bytes")
        return bytes(answer)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
