"""Speculation on against off: same prompts, same machine, alternating, over HTTP.

    python -m bench.speculation --streams 1,8 --rounds 3 --json FILE --plot FILE
    python -m bench.speculation --openvino PYTHON --llama LLAMA_SERVER --peer-streams 1
    python -m bench.speculation --bf16 FOLDER --rounds 2        # both models

Each engine runs as two processes, one stopped (SIGSTOP) while the other is measured. No prompt
comes twice, so that recent outputs help only as much as they would in real use. Prints output
tokens per second, medians of the ratios round by round, the same of the time after the first token
("decode") and of CPU time ("CPU": what other work on the machine disturbs least), what drafts that
are all right would give in the same run ("bound"), how many of the drafted tokens were right, how
many came at once, how much was verified in vain, and whether both gave the same texts. No
--ignore-eos: a small model that must go on repeats itself, which is easy to draft. Peers are
compared with themselves, without JSON schemas, in `--peer-rounds` and with up to `--peer-streams`;
one that does not start is named as such. `--bf16` adds the same comparison for another model (as
`bench/export_bf16.py` makes it of the embedded one), and that model drafting for itself with 4-bit
weights.
"""

import argparse
import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.peers.engines import HttpEngine, Running, free_port
from bench.peers.memory import cpu_seconds, processes
from bench.speculation_prompts import WORKLOADS, Body, bodies, chat
from bench.speculation_report import Measurement, Results, gain, table, write_json, write_plot
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.text.chat import load_chat_template

FORM = {"type": "json_schema", "json_schema": {"name": "yes", "schema": {"type": "boolean"}}}
WARM_UP = chat("Say yes.", model="x", max_tokens=8, response_format=FORM)
"""The first grammar that an engine sees makes it read the vocabulary."""


FEWEST_REQUESTS = 8
"""Texts differ in how much of them can be drafted."""
SETTLE_SECONDS = 0.7
"""Between waking an engine and measuring it: what it makes up for is not measured."""


class Engine(Protocol):
    name: str
    process: subprocess.Popen[str]

    def measure(self, requests: list[Body], streams: int) -> Measurement: ...


class Server(HttpEngine):
    """Headrace or llama-server."""

    def __init__(self, name: str, command: list[str]) -> None:
        port = free_port()
        super().__init__(name, [*command, "--port", str(port)], port)
        self.ask(WARM_UP)

    def ask(self, body: Body) -> dict[str, Any]:
        route = "completions" if "prompt" in body else "chat/completions"
        request = urllib.request.Request(
            f"{self.url}/v1/{route}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def measure(self, requests: list[Body], streams: int) -> Measurement:  # type: ignore[override]
        result = Measurement()
        with ThreadPoolExecutor(streams) as pool:
            begin, used = time.perf_counter(), self._cpu_seconds()
            answers = list(pool.map(self.ask, requests))
            result.duration = time.perf_counter() - begin
            result.cpu = self._cpu_seconds() - used
        for answer in answers:
            choice, timings = answer["choices"][0], answer.get("timings", {})
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            result.texts.append(text)
            result.num_tokens += answer["usage"]["completion_tokens"]
            result.num_drafted += timings.get("draft_n", 0)
            result.num_accepted += timings.get("draft_n_accepted", 0)
            result.num_forced += timings.get("forced_n", 0)
            result.num_draft_steps += timings.get("draft_steps_n", 0)
            result.decoding += timings.get("predicted_ms", 0.0) / 1e3
        return result

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(pid) for pid in processes(self.process.pid))


class Piped:
    """A module of bench, run under a Python, that answers lines of JSON."""

    def __init__(self, name: str, python: str, module: str, *arguments: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [python, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip

    def ask(self, case: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a case, or the first line."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if case is not None:
            print(json.dumps(case), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class OpenVino(Piped):
    """OpenVINO GenAI, whose figures are without HTTP."""

    def __init__(self, name: str, python: str, num_drafts: int) -> None:
        super().__init__(
            name, python, "bench.openvino_lookup", str(embedded_model()), str(num_drafts)
        )
        template = load_chat_template(open_checkpoint(embedded_model()), None, None)
        assert template is not None
        self._template = template
        self.ask()

    def measure(self, requests: list[Body], streams: int) -> Measurement:
        prompts = [
            body["prompt"] if "prompt" in body else self._template.render(body["messages"])
            for body in requests
        ]
        first = requests[0]
        answer = self.ask(
            {
                "streams": streams,
                "prompts": prompts,
                # One length for all, the mean: requests of a batch share it.
                "max_tokens": sum(body["max_tokens"] for body in requests) // len(requests),
                "temperature": first["temperature"],
                "seed": first.get("seed", 0),
            }
        )
        return Measurement(answer["texts"], answer["num_tokens"], duration=answer["seconds"])


class Oracle(Piped):
    """Tells what drafts that are all right would give to a model."""

    def __init__(self, flags: list[str]) -> None:
        super().__init__("oracle", sys.executable, "bench.speculation_oracle", *flags)

    def bound(self, requests: list[Body], streams: int) -> dict[str, float]:
        with running(self):
            return self.ask({"streams": streams, "bodies": requests})


def send(number: signal.Signals, engine: Running) -> None:
    """A signal to all its processes; killing the group would leave out those with one of their
    own, which use their idle time."""
    for pid in processes(engine.process.pid):
        os.kill(pid, number)


@contextlib.contextmanager
def running(engine: Running) -> Iterator[None]:
    """Let it run; it takes nothing from the others before and afterwards."""
    send(signal.SIGCONT, engine)
    time.sleep(SETTLE_SECONDS)
    try:
        yield
    finally:
        send(signal.SIGSTOP, engine)


@dataclass(frozen=True)
class Pair:
    """One engine without and with speculation, and what it is asked for."""

    off: Engine
    on: Engine
    workloads: Container[str] = tuple(WORKLOADS)
    most_streams: int = sys.maxsize
    rounds: int = sys.maxsize
    oracle: Oracle | None = None


class Engines:
    """All processes, stopped when they are not asked for something."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.pairs: dict[str, Pair] = {}
        """By name of the engine."""
        self.failures: list[str] = []
        self._started: list[Running] = []
        on = shlex.split(options.headrace_on)
        flags = shlex.split(options.headrace)
        self._has_bounds = not options.no_bound
        self.pairs["headrace"] = Pair(
            self._headrace(flags, []), self._headrace(flags, on), oracle=self._oracle(flags)
        )
        if options.bf16:
            flags = [*flags, "--model-id", options.bf16]
            off, own = self._headrace(flags, []), [*on, "--draft-model-id", "self"]
            oracle = self._oracle(flags)
            self.pairs["bf16"] = Pair(off, self._headrace(flags, on), oracle=oracle)
            self.pairs["bf16, self"] = Pair(off, self._headrace(flags, own), ("open",), 1)
        self._add_peers(options)

    def _headrace(self, flags: list[str], on: list[str]) -> Engine:
        command = [sys.executable, "-m", "headrace", "serve", *flags, *(on or ["--speculate", "0"])]
        server: Engine = self._keep(Server("on" if on else "off", command))
        return server

    def _oracle(self, flags: list[str]) -> Oracle | None:
        return self._keep(Oracle(flags)) if self._has_bounds else None

    def _add_peers(self, options: argparse.Namespace) -> None:
        asked = [workload for workload in WORKLOADS if workload != "json"]
        if options.openvino:
            with self._excused("openvino"):
                self.pairs["openvino"] = Pair(
                    self._keep(OpenVino("off", options.openvino, 0)),
                    self._keep(OpenVino("on", options.openvino, options.openvino_drafts)),
                    asked,
                    options.peer_streams,
                    options.peer_rounds,
                )
        if options.llama:
            llama = [options.llama, "-m", str(embedded_model()), "-np", "8", "-c", "32768"]
            llama += ["--no-webui", *shlex.split(options.llama_flags)]
            with self._excused("llama-server"):
                self.pairs["llama"] = Pair(
                    self._keep(Server("off", llama)),
                    self._keep(Server("on", [*llama, *shlex.split(options.llama_on)])),
                    asked,
                    options.peer_streams,
                    options.peer_rounds,
                )

    def _keep(self, engine: Any) -> Any:
        self._started.append(engine)
        send(signal.SIGSTOP, engine)
        return engine

    @contextlib.contextmanager
    def _excused(self, name: str) -> Iterator[None]:
        try:
            yield
        except (SystemExit, OSError) as error:
            self.failures.append(f"{name} does not run here: {error}")

    def close(self) -> None:
        for engine in self._started:
            send(signal.SIGKILL, engine)


def compare(
    pair: Pair, requests: list[Body], streams: int, is_reversed: bool
) -> tuple[Measurement, Measurement]:
    """The one that goes first changes from round to round."""
    measurements = []
    for engine in (pair.on, pair.off) if is_reversed else (pair.off, pair.on):
        with running(engine):
            measurements.append(engine.measure(requests, streams))
    off, on = reversed(measurements) if is_reversed else measurements
    return off, on


def measure_round(
    engines: Engines, options: argparse.Namespace, number: int, results: Results
) -> None:
    for workload in options.workloads.split(","):
        for streams in map(int, options.streams.split(",")):
            chance = random.Random(f"{options.seed} {workload} {streams} {number}")
            count = max(options.requests * streams, FEWEST_REQUESTS)
            requests = bodies(workload, chance, count, options.max_tokens)
            begin = time.monotonic()
            for name, pair in engines.pairs.items():
                is_asked = workload in pair.workloads and number < pair.rounds
                if is_asked and streams <= pair.most_streams:
                    measured = compare(pair, requests, streams, is_reversed=bool(number % 2))
                    results.pairs.setdefault((name, workload, streams), []).append(measured)
                    if pair.oracle is not None and number < options.bound_rounds:
                        bound = pair.oracle.bound(requests, streams)
                        results.bounds.setdefault((name, workload, streams), []).append(bound)
                    seconds = time.monotonic() - begin
                    ratio = f"{gain(*measured):.2f}"
                    print(f"{name}, {workload}, {streams}: {ratio} ({seconds:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--headrace", default="", help="flags of both servers")
    parser.add_argument(
        "--headrace-on", default="--speculate 24", help="flags of the speculating server"
    )
    parser.add_argument(
        "--bf16", metavar="FOLDER", help="another model, which can draft for itself"
    )
    parser.add_argument("--no-bound", action="store_true", help="leave the bound out")
    parser.add_argument("--openvino", help="a Python with openvino_genai")
    parser.add_argument("--openvino-drafts", type=int, default=5)
    parser.add_argument("--llama", help="path of llama-server, to be compared with itself")
    parser.add_argument("--llama-flags", default="-t 2 -tb 2")
    parser.add_argument("--llama-on", default="--spec-type ngram-simple")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--requests", type=int, default=2, help="per stream and round, at least 8")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=1, help="of them with peers")
    parser.add_argument("--peer-streams", type=int, default=sys.maxsize, help="at most")
    parser.add_argument("--bound-rounds", type=int, default=1, help="of them with bounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no engine is left behind
    engines = Engines(options)
    results = Results(notes=engines.failures)
    try:
        for number in range(options.rounds):
            measure_round(engines, options, number, results)
            print(f"after round {number + 1}", table(results), sep="\n", flush=True)
    finally:
        engines.close()
        if options.json:
            write_json(options.json, results)
        if options.plot and results.pairs:
            write_plot(options.plot, results)


if __name__ == "__main__":
    main()
