"""The sections of the comparison: each starts its engines, measures, and returns plain data."""

import argparse
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.peers.engines import (
    FACT,
    GRAMMAR,
    Engine,
    EngineError,
    Figures,
    HttpEngine,
    Load,
    OpenVinoEngine,
    Sense,
    awake,
    check_sanity,
    end,
    free_port,
)
from bench.peers.limits import fractions, measure_limits
from bench.peers.memory import MemoryWatch, cpu_seconds, processes, resident_bytes
from bench.peers.models import Size, shape_size, size_of, write_config, write_gguf
from bench.peers.without_amx import VLLM_ENVIRONMENT
from headrace.checkpoint.embedded import embedded_model

Options = argparse.Namespace
Result = dict[str, Any]
Start = Callable[[], Engine]
CACHE_BYTES = 160 << 20
"""Of the KV cache where memory is measured: an idle engine gives all of it memory."""
PREFIX_TOKENS = 1000
LONG_PROMPT, LONG_NEW = 8000, 64


def headrace(options: Options, *flags: str | Path) -> HttpEngine:
    port = free_port()
    command = [sys.executable, "-m", "headrace", "serve", "--port", str(port), *map(str, flags)]
    return HttpEngine("headrace", command + shlex.split(options.headrace), port)


def llama(options: Options, name: str, model: Path, sense: Sense = FACT) -> HttpEngine:
    port = free_port()
    command = [options.llama, "-m", str(model), "--port", str(port), "-np", "32"]
    command += ["-c", "32768", "-t", "2", "-tb", "2", "--no-webui"]
    return HttpEngine(name, command + shlex.split(options.llama_flags), port, sense=sense)


def vllm(options: Options, model: Path, *flags: str) -> HttpEngine:
    port = free_port()
    command = [options.vllm, "serve", str(model), "--port", str(port)]
    command += ["--max-model-len", "4096", "--max-num-seqs", "64", *flags]
    environment = {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "4"}
    environment |= {"HF_HUB_OFFLINE": "1"} | (VLLM_ENVIRONMENT if options.without_amx else {})
    return HttpEngine("vllm", command, port, environment)


@contextmanager
def loaded(starts: Sequence[Start], *, is_sane: bool = True) -> Iterator[list[Engine]]:
    """Engines that answer, stopped. One that does not start is left out, with a line."""
    engines: list[Engine] = []
    try:
        for start in starts:
            try:
                engine = start()
                engines.append(engine)
                if is_sane:
                    check_sanity(engine)
                engine.measure(Load(streams=2, prompt_tokens=65, new_tokens=16), seed=-1)
                with awake(engine):
                    pass
            except EngineError as error:
                print(f"left out: {error}", flush=True)
                ended = [each for each in engines if each.name == error.engine]
                for each in ended:
                    end(each)
                    engines.remove(each)
        yield engines
    finally:
        for engine in engines:
            end(engine)


def cases(options: Options) -> dict[str, Load]:
    streams = [int(count) for count in options.streams.split(",")]
    sizes = {"prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens}
    loads = {f"{n} streams": Load(streams=n, **sizes) for n in streams}
    prefill = Load(streams=4, requests=16, prompt_tokens=options.prefill_tokens, new_tokens=1)
    return loads | {"prefill": prefill}


def alternate(
    engines: Sequence[Engine], loads: dict[str, Load], options: Options
) -> dict[str, dict[str, list[Figures]]]:
    """By case and engine, the figures of each round; rounds alternate over the engines."""
    results: dict[str, dict[str, list[Figures]]] = {
        case: {engine.name: [] for engine in engines} for case in loads
    }
    for number in range(options.rounds):
        for index, (case, load) in enumerate(loads.items()):
            for engine in engines:
                with awake(engine):
                    seed = number * len(loads) + index
                    results[case][engine.name].append(engine.measure(load, seed))
        print(f"round {number + 1} of {options.rounds}", flush=True)
    return results


def throughput(
    starts: Sequence[Start], size: Size, options: Options, *, is_sane: bool = True
) -> Result:
    """All engines on all cases, with the part of the machine's limits that each uses."""
    limits, loads = measure_limits(), cases(options)
    with loaded(starts, is_sane=is_sane) as engines:
        rounds = alternate(engines, loads, options)
    used = {
        case: {
            name: fractions(_median(figures), loads[case], size, limits)
            for name, figures in by_engine.items()
        }
        for case, by_engine in rounds.items()
    }
    return {"limits": limits, "rounds": rounds, "fractions": used}


def _median(rounds: list[Figures]) -> Figures:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def embedded(options: Options) -> Result:
    """The embedded model's file: Headrace, OpenVINO GenAI, llama-server (and its best, Q4_0)."""
    model = embedded_model()
    starts: list[Start] = [lambda: headrace(options)]
    if options.openvino:
        starts.append(lambda: OpenVinoEngine(options.openvino, model))
    if options.llama:
        starts.append(lambda: llama(options, "llama", model))
    if options.llama and options.q4_0:
        # What is rounded twice no longer knows any capital.
        starts.append(lambda: llama(options, "llama-q4_0", options.q4_0, GRAMMAR))
    return throughput(starts, size_of(model), options)


def bf16(options: Options) -> Result:
    """The model in 16 bits: Headrace, vLLM."""
    starts: list[Start] = [lambda: headrace(options, "--model-id", options.bf16)]
    if options.vllm:
        starts.append(lambda: vllm(options, options.bf16))
    return throughput(starts, size_of(options.bf16), options)


def dummy(options: Options) -> Result:
    """A 1B Llama shape with random weights, Q4_0: Headrace, OpenVINO GenAI, llama-server."""
    path = options.scratch / "llama-1b-q4_0.gguf"
    if not path.exists():
        write_gguf(path)
    starts: list[Start] = [lambda: headrace(options, "--model-id", path)]
    if options.openvino:
        starts.append(lambda: OpenVinoEngine(options.openvino, path))
    if options.llama:
        starts.append(lambda: llama(options, "llama", path))
    return throughput(starts, size_of(path), options, is_sane=False)


def dummy_bf16(options: Options) -> Result:
    """The same shape in 16 bits: Headrace, vLLM."""
    folder, flags = options.scratch / "llama-1b", ("--load-format", "dummy")
    write_config(folder)
    starts: list[Start] = [lambda: headrace(options, "--model-id", folder, *flags)]
    if options.vllm:
        starts.append(lambda: vllm(options, folder, *flags))
    return throughput(starts, shape_size(), options, is_sane=False)


def long(options: Options) -> Result:
    """Decode behind a prompt of 8,000 tokens: Headrace, OpenVINO GenAI."""
    starts: list[Start] = [lambda: headrace(options)]
    if options.openvino:
        starts.append(lambda: OpenVinoEngine(options.openvino, embedded_model()))
    load = Load(streams=1, prompt_tokens=LONG_PROMPT, new_tokens=LONG_NEW, requests=1)
    with loaded(starts) as engines:
        return {"rounds": alternate(engines, {"8k context": load}, options)}


def prefix(options: Options) -> Result:
    """Time to first token of 32 requests behind a cached prefix of 1,000 tokens, against that of
    requests without, in turns: one at a time, and all at once."""
    times: dict[str, list[dict[str, float]]] = {}
    with loaded([lambda: headrace(options)]) as (engine,), awake(engine):
        for number in range(options.rounds):
            for streams, num_cold in ((1, 4), (32, 32)):
                size = {"streams": streams, "new_tokens": 8}
                cold = Load(**size, requests=num_cold, prompt_tokens=65 + PREFIX_TOKENS)
                warm = Load(
                    **size, requests=32, prompt_tokens=65, shared_prefix_tokens=PREFIX_TOKENS
                )
                first = replace(warm, streams=1, requests=1)  # fills the cache
                ttft = [engine.measure(load, seed=number)["ttft"] for load in (cold, first, warm)]
                figures = {"cold": ttft[0], "warm": ttft[2]}
                times.setdefault(f"{streams} streams", []).append(figures)
    return {"times": times}


def start(options: Options) -> Result:
    """Seconds from the start of each engine's process to its first answer."""
    seconds: dict[str, list[float]] = {}
    starts: list[Start] = [lambda: headrace(options)]
    if options.openvino:
        starts.append(lambda: OpenVinoEngine(options.openvino, embedded_model()))
    for _ in range(options.rounds):
        for start_engine in starts:
            began = time.monotonic()
            engine = start_engine()
            engine.complete("Hello", 1)
            seconds.setdefault(engine.name, []).append(time.monotonic() - began)
            end(engine)
    return {"seconds": seconds}


def memory(options: Options) -> Result:
    """Resident memory of all Headrace processes beyond weights and KV cache, during a load."""
    known = size_of(embedded_model()).weight_bytes + CACHE_BYTES
    with loaded([lambda: headrace(options, "--kv-cache-memory", str(CACHE_BYTES))]) as (engine,):
        assert isinstance(engine, HttpEngine)
        leader = engine.process.pid
        with awake(engine):
            idle = resident_bytes(leader)
            with MemoryWatch(leader, interval=5.0) as watch:
                engine.drive(
                    "--streams", 8, "--duration", options.soak_seconds,
                    "--prompt-tokens", 200, "--max-tokens", 128,
                )  # fmt: skip
            end_of_load = resident_bytes(leader)
    return {
        "weights": known - CACHE_BYTES,
        "cache": CACHE_BYTES,
        "idle": idle,
        "loaded": end_of_load,
        "samples": [(seconds, size - known) for seconds, size in watch.samples],
    }


def overhead(options: Options) -> Result:
    """CPU time of all that is no kernel, per token: the front end's, and the engine's by `perf`."""
    results = {}
    with loaded([lambda: headrace(options)]) as (engine,):
        front, pids = engine.process.pid, processes(engine.process.pid)
        model = max(pids[1:], key=cpu_seconds)
        profile = options.scratch / "overhead.perf"
        for case, load in cases(options).items():
            with awake(engine):
                recorder = _record(model, profile)
                before = cpu_seconds(front), cpu_seconds(model)
                engine.measure(load, seed=hash(case))
                after = cpu_seconds(front), cpu_seconds(model)
                recorder.terminate()
                recorder.wait()
            of_front, of_model = (now - then for now, then in zip(after, before, strict=True))
            results[case] = _split(of_front, of_model, _kernel_share(profile), load)
    return results


def _record(pid: int, profile: Path) -> "subprocess.Popen[bytes]":
    command = ["perf", "record", "-q", "-F", "997", "-p", str(pid), "-o", str(profile)]
    recorder = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    return recorder


def _kernel_share(profile: Path) -> float:
    """Of the engine's samples, those in the compiled kernels."""
    command = ["perf", "report", "-i", str(profile), "--stdio", "--sort", "dso", "-t", ";"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    shares = [line.split(";") for line in output.splitlines() if ".abi3.so" in line]
    return sum(float(share.strip(" %")) / 100 for share, name, *_ in shares if "/" not in name)


def _split(front: float, model: float, kernel_share: float, load: Load) -> Figures:
    tokens = load.num_requests * load.new_tokens
    around = model * (1 - kernel_share)
    return {
        "front_us_per_token": front / tokens * 1e6,
        "engine_us_per_token": around / tokens * 1e6,
        "front_share": front / (front + model),
        "engine_share": around / (front + model),
    }


SECTIONS: dict[str, Callable[[Options], Result]] = {
    "embedded": embedded,
    "bf16": bf16,
    "dummy": dummy,
    "dummy_bf16": dummy_bf16,
    "long": long,
    "prefix": prefix,
    "start": start,
    "memory": memory,
    "overhead": overhead,
}
