"""Headrace beside other CPU engines: same model file, same machine, same run.

Engines stay loaded, all but the measured one stopped (SIGSTOP); rounds alternate over them, so that
drifts of the machine hit all alike. Prints medians over rounds and medians of per-round ratios.

    python bench/side_by_side.py --headrace "" --openvino PYTHON --llama LLAMA_SERVER \
        --vllm VLLM --vllm-model DIR --streams 1,8,32 --rounds 3 --json FILE

Headrace, llama-server and vLLM are driven over HTTP by `headrace bench`; OpenVINO GenAI runs in
process, without HTTP in its figures.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from headrace.checkpoint.embedded import embedded_model

PREFILL = "prefill"
LOAD_SECONDS = 400


class Engine(Protocol):
    name: str
    process: subprocess.Popen[str]

    def measure(self, streams: int, prompt_tokens: int, new_tokens: int) -> float:
        """Output tokens per second; prompt tokens per second when new_tokens is 1."""
        ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class HttpEngine:
    """A server process, measured through its OpenAI route."""

    def __init__(
        self, name: str, command: list[str], port: int, environment: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self._seed = 0
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True, env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self._wait_ready()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended with {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
        raise SystemExit(f"{self.name} did not start in {LOAD_SECONDS} s")

    def measure(self, streams: int, prompt_tokens: int, new_tokens: int) -> float:
        self._seed += 1
        with tempfile.NamedTemporaryFile(suffix=".json") as report:
            command = [
                sys.executable, "-m", "headrace", "bench", "--url", self.url,
                "--streams", str(streams), "--requests", str(max(2, 2 * streams)),
                "--prompt-tokens", str(prompt_tokens), "--max-tokens", str(new_tokens),
                "--temperature", "0", "--ignore-eos", "--new-connection",
                "--seed", str(self._seed), "--json", report.name,
            ]  # fmt: skip
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            run = json.loads(Path(report.name).read_text())["runs"][0]
        tokens = run["total_input_tokens"] if new_tokens == 1 else run["total_output_tokens"]
        return float(tokens / run["duration"])


class OpenVinoEngine:
    """OpenVINO GenAI in a process of its own, asked over a pipe."""

    name = "openvino"

    def __init__(self, python: str, model: Path) -> None:
        script = Path(__file__).with_name("openvino_peer.py")
        self.process = subprocess.Popen(
            [python, str(script), str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer

    def measure(self, streams: int, prompt_tokens: int, new_tokens: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{streams} {prompt_tokens} {new_tokens}\n")
        self.process.stdin.flush()
        answer = self._answer()
        return answer["prefill_throughput" if new_tokens == 1 else "output_throughput"]


def start(options: argparse.Namespace) -> Iterator[Engine]:
    """The engines that the command line names, loaded one after another."""
    model = Path(options.model) if options.model else embedded_model()
    if options.headrace is not None:
        port = free_port()
        extra = shlex.split(options.headrace)
        command = [sys.executable, "-m", "headrace", "serve", "--port", str(port), *extra]
        if options.model and "--model-id" not in extra:
            command += ["--model-id", options.model]
        yield HttpEngine("headrace", command, port)
    if options.openvino:
        yield OpenVinoEngine(options.openvino, model)
    for name, path in (("llama", options.llama_model or model), ("llama-q4_0", options.llama_q4_0)):
        if options.llama and path:
            port = free_port()
            command = [options.llama, "-m", str(path), "--port", str(port), "-np", "32"]
            command += ["-c", "32768", "-t", "2", "-tb", "2", "--no-webui"]
            yield HttpEngine(name, command + shlex.split(options.llama_flags), port)
    if options.vllm:
        port = free_port()
        command = [options.vllm, "serve", options.vllm_model, "--port", str(port)]
        command += ["--max-model-len", "4096", "--max-num-seqs", "64"]
        environment = {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "4"}
        yield HttpEngine("vllm", command, port, environment | {"HF_HUB_OFFLINE": "1"})


@contextlib.contextmanager
def awake(engine: Engine) -> Iterator[None]:
    os.killpg(engine.process.pid, signal.SIGCONT)
    try:
        yield
    finally:
        os.killpg(engine.process.pid, signal.SIGSTOP)


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Medians, and medians of the ratios headrace/peer round by round."""
    lines = [f"{'':12} " + " ".join(f"{name:>22}" for name in results)]
    base = results.get("headrace") or next(iter(results.values()))
    for case in base:
        cells = []
        for name, cases in results.items():
            cell = f"{statistics.median(cases[case]):.0f}"
            if cases is not base:
                ratio = statistics.median(
                    a / b for a, b in zip(base[case], cases[case], strict=True)
                )
                cell += f" (ratio {ratio:.2f})"
            cells.append(f"{cell:>22}")
            del name
        lines.append(f"{case:12} " + " ".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="GGUF file; default: the embedded model")
    parser.add_argument("--headrace", nargs="?", const="", help="extra flags of headrace serve")
    parser.add_argument("--openvino", help="a Python with openvino_genai")
    parser.add_argument("--llama", help="path of llama-server")
    parser.add_argument("--llama-model", help="another file for llama-server")
    parser.add_argument("--llama-q4_0", help="the same model as Q4_0, llama.cpp's best")
    parser.add_argument("--llama-flags", default="", help="further flags of llama-server")
    parser.add_argument("--vllm", help="path of vllm")
    parser.add_argument("--vllm-model", help="folder with safetensors for vLLM")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--prompt-tokens", type=int, default=65)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--prefill-tokens", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    cases = [(f"{n} streams", n, options.prompt_tokens, options.new_tokens)
             for n in map(int, options.streams.split(","))]  # fmt: skip
    cases.append((PREFILL, 4, options.prefill_tokens, 1))
    engines: list[Engine] = []
    results: dict[str, dict[str, list[float]]] = {}
    try:
        for engine in start(options):
            engines.append(engine)
            results[engine.name] = {case[0]: [] for case in cases}
            engine.measure(2, 65, 16)  # warm
            os.killpg(engine.process.pid, signal.SIGSTOP)
        for number in range(options.rounds):
            for case, *load in cases:
                for engine in engines:
                    with awake(engine):
                        results[engine.name][case].append(engine.measure(*load))
            print(f"after round {number + 1}\n{table(results)}", flush=True)
    finally:
        for engine in engines:
            os.killpg(engine.process.pid, signal.SIGKILL)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
