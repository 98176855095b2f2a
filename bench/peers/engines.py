"""The engines to compare: how each is started and measured. Knows no model and no table.

Headrace, llama-server and vLLM are driven over HTTP by `headrace bench`; OpenVINO GenAI runs in
process, without HTTP in its figures.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headrace.bench.prompts import SyntheticPrompts

LOAD_SECONDS = 400
SETTLE_SECONDS = 2.0
"""Between waking a stopped engine and measuring it: what it does while idle is not measured."""


@dataclass(frozen=True)
class Sense:
    """A prompt, and what an engine that computes rightly continues it with."""

    prompt: str
    answer: str


FACT = Sense("The capital of France is", "Paris")
GRAMMAR = Sense("Once upon a time", " was")
"""For models that know little."""

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Load:
    """A closed loop of greedy requests that ignore end-of-sequence."""

    streams: int
    prompt_tokens: int
    new_tokens: int
    requests: int = 0
    """0: two per stream, and at least four."""
    shared_prefix_tokens: int = 0

    @property
    def num_requests(self) -> int:
        return self.requests or max(4, 2 * self.streams)


class EngineError(Exception):
    """The engine of that name did not start, or did not do what was asked."""

    def __init__(self, engine: str, problem: str) -> None:
        super().__init__(f"{engine} {problem}")
        self.engine = engine


class Running(Protocol):
    process: subprocess.Popen[Any]


class Engine(Running, Protocol):
    name: str
    start_seconds: float
    """From the start of the process until it answered."""
    sense: Sense

    def measure(self, load: Load, seed: int) -> Figures:
        """Tokens per second: `output`, `input`; seconds, medians: `tpot`, and over HTTP `ttft`.
        The same seed gives the same prompts. Raises EngineError."""
        ...

    def complete(self, prompt: str, new_tokens: int) -> str: ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class HttpEngine:
    """A server process, measured through its OpenAI route."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        environment: dict[str, str] | None = None,
        sense: Sense = FACT,
    ) -> None:
        self.name = name
        self.sense = sense
        self.url = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        self.process: subprocess.Popen[Any] = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self._wait_ready()
        self.start_seconds = time.monotonic() - began

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise EngineError(self.name, f"ended with {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.02)
        end(self)
        raise EngineError(self.name, f"did not start in {LOAD_SECONDS} s")

    def measure(self, load: Load, seed: int) -> Figures:
        run = self.drive(
            "--streams", load.streams, "--requests", load.num_requests, "--warmup", 0,
            "--prompt-tokens", load.prompt_tokens, "--max-tokens", load.new_tokens,
            "--shared-prefix-tokens", load.shared_prefix_tokens, "--seed", seed,
        )  # fmt: skip
        expected = load.num_requests * load.new_tokens
        if run["total_output_tokens"] != expected:
            raise EngineError(
                self.name, f"made {run['total_output_tokens']} tokens, not {expected}"
            )
        latencies = {key: run[f"median_{key}_ms"] for key in ("tpot", "ttft")}
        return {
            "output": run["output_throughput"],
            "input": run["input_throughput"],
            # There is no time per further token where there is one token.
            **{key: median / 1000 for key, median in latencies.items() if median is not None},
        }

    def drive(self, *flags: str | int | float) -> dict[str, Any]:
        """Run `headrace bench`; its JSON of the run. Raises EngineError."""
        with tempfile.NamedTemporaryFile(suffix=".json") as report:
            command = [
                sys.executable, "-m", "headrace", "bench", "--url", self.url, "--ignore-eos",
                "--new-connection", "--json", report.name, *map(str, flags),
            ]  # fmt: skip
            if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
                raise EngineError(self.name, "failed at requests")
            run: dict[str, Any] = json.loads(Path(report.name).read_text())["runs"][0]
        return run

    def complete(self, prompt: str, new_tokens: int) -> str:
        with urllib.request.urlopen(f"{self.url}/v1/models", timeout=30) as answer:
            model = json.load(answer)["data"][0]["id"]
        body = {"model": model, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0}
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=LOAD_SECONDS) as answer:
                text: str = json.load(answer)["choices"][0]["text"]
        except urllib.error.HTTPError as error:
            raise EngineError(self.name, f"answers with {error}") from error
        return text


class OpenVinoEngine:
    """OpenVINO GenAI in a process of its own, asked over a pipe."""

    name = "openvino"
    sense = FACT

    def __init__(self, python: str, model: Path) -> None:
        script = Path(__file__).with_name("openvino_peer.py")
        began = time.monotonic()
        self.process: subprocess.Popen[Any] = subprocess.Popen(
            [python, str(script), str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        self._answer()
        self.start_seconds = time.monotonic() - began

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EngineError(self.name, f"ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _generate(self, batches: list[list[str]], new_tokens: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"batches": batches, "new_tokens": new_tokens}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def measure(self, load: Load, seed: int) -> Figures:
        prompt = SyntheticPrompts(load.prompt_tokens, load.shared_prefix_tokens, seed)
        prompts = [prompt(number) for number in range(load.num_requests)]
        batches = [
            prompts[first : first + load.streams] for first in range(0, len(prompts), load.streams)
        ]
        answer = self._generate(batches, load.new_tokens)
        return {
            "output": len(prompts) * load.new_tokens / answer["seconds"],
            "input": answer["prompt_tokens"] / answer["seconds"],
            "tpot": answer["tpot"],
        }

    def complete(self, prompt: str, new_tokens: int) -> str:
        text: str = self._generate([[prompt]], new_tokens)["texts"][0]
        return text


def check_sanity(engine: Engine) -> None:
    """Raises EngineError when the engine does not know what the model knows."""
    text = engine.complete(engine.sense.prompt, 8)
    if engine.sense.answer not in text:
        raise EngineError(engine.name, f"continues {engine.sense.prompt!r} with {text!r}")


@contextlib.contextmanager
def awake(engine: Running) -> Iterator[None]:
    """Let it run; it is stopped (SIGSTOP) afterwards, so that it takes nothing from the others."""
    os.killpg(engine.process.pid, signal.SIGCONT)
    time.sleep(SETTLE_SECONDS)
    try:
        yield
    finally:
        os.killpg(engine.process.pid, signal.SIGSTOP)


def end(engine: Engine) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(engine.process.pid, signal.SIGKILL)
    engine.process.wait()
