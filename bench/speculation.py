"""Speculation on against off: same prompts, same machine, alternating, over HTTP.

    python bench/speculation.py --streams 1,8 --rounds 5 --json FILE
    python bench/speculation.py --llama LLAMA_SERVER --llama-on "--spec-type ngram-simple"
    python bench/speculation.py --workloads open --headrace "--model-id BF16_FOLDER" \\
        --headrace-on "--draft-model-id self"

Each engine runs as two servers, one stopped (SIGSTOP) while the other is measured. No prompt comes
twice, so that recent outputs help only as much as they would in real use. Prints output tokens per
second, medians of the ratios round by round, how many of the drafted tokens were right, and whether
both gave the same texts. No --ignore-eos: a small model that must go on repeats itself, which is
easy to draft.
"""

import argparse
import inspect
import json
import os
import random
import shlex
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.engines import HttpEngine, awake, free_port

from headrace.checkpoint.embedded import embedded_model

MODULES = (argparse, inspect, json, random, shlex, statistics, urllib.request)
SCHEMA = {
    "type": "object",
    "properties": {
        "orders": {
            "type": "array",
            "minItems": 4,
            "maxItems": 4,
            "items": {
                "type": "object",
                "properties": {
                    "order_number": {"type": "integer", "minimum": 1000, "maximum": 9999},
                    "customer_name": {"type": "string", "maxLength": 16},
                    "shipping_country": {"enum": ["France", "Japan", "Brazil", "Canada"]},
                    "is_paid_in_advance": {"type": "boolean"},
                    "delivery_date": {"type": "string", "format": "date"},
                },
                "required": [
                    "order_number", "customer_name", "shipping_country", "is_paid_in_advance",
                    "delivery_date",
                ],
                "additionalProperties": False,
            },
        }
    },
    "required": ["orders"],
    "additionalProperties": False,
}  # fmt: skip
QUESTIONS = (
    "Explain {topic} to a curious child.",
    "Write a short story in which {topic} changes somebody's life.",
    "What should I know about {topic} before my holiday?",
    "Give me five ideas for a talk about {topic}.",
    "Write a poem about {topic}.",
)
TOPICS = ("water mills", "the moon", "bread", "bicycles", "rivers", "old maps", "bees", "glass",
          "thunder", "chess", "lighthouses", "salt", "tea", "bridges", "owls")  # fmt: skip
Body = dict[str, Any]


def documentation(chance: random.Random) -> str:
    """A passage of some 200 words that no other request has."""
    texts = [inspect.getdoc(value) or "" for module in MODULES for value in vars(module).values()]
    passages = [" ".join(text.split()[:60]) for text in texts if len(text.split()) > 40]
    return "\n".join(chance.sample(passages, 3))


def source_code(chance: random.Random) -> str:
    """Lines of real code, cut in the middle."""
    lines = inspect.getsource(chance.choice(MODULES)).splitlines()
    begin = chance.randrange(max(1, len(lines) - 90))
    return "\n".join(lines[begin : begin + 90]) + "\n"


def chat(content: str, **fields: Any) -> Body:
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def copy(chance: random.Random) -> Body:
    return chat(f"Repeat this text word for word:\n\n{documentation(chance)}")


def edit(chance: random.Random) -> Body:
    return chat(
        f"Correct spelling and punctuation, change nothing else:\n\n{documentation(chance)}"
    )


def quote(chance: random.Random) -> Body:
    text = documentation(chance)
    return chat(f"Summarize this text by quoting its most important sentences:\n\n{text}")


def code(chance: random.Random) -> Body:
    return {"prompt": source_code(chance), "temperature": 0}


def json_schema(chance: random.Random) -> Body:
    form = {"type": "json_schema", "json_schema": {"name": "orders", "schema": SCHEMA}}
    text = f"Invent four orders of a shop that sells {words(chance, 3)}. Answer in JSON."
    return chat(text, temperature=0.7, seed=chance.getrandbits(31), response_format=form)


def adversarial(chance: random.Random) -> Body:
    return chat(words(chance, 60), temperature=1.5, seed=chance.getrandbits(31))


def open_chat(chance: random.Random) -> Body:
    question = chance.choice(QUESTIONS).format(topic=chance.choice(TOPICS))
    return chat(question, temperature=0.7, seed=chance.getrandbits(31))


def words(chance: random.Random, count: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(chance.choices(letters, k=chance.randint(2, 8))) for _ in range(count))


WORKLOADS: dict[str, Callable[[random.Random], Body]] = {
    "copy": copy,
    "edit": edit,
    "quote": quote,
    "code": code,
    "json": json_schema,
    "adversarial": adversarial,
    "open": open_chat,
}


@dataclass
class Measurement:
    """One engine, one workload, one round."""

    texts: list[str] = field(default_factory=list)
    num_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_forced: int = 0
    duration: float = 0.0

    @property
    def throughput(self) -> float:
        return self.num_tokens / self.duration


def ask(url: str, body: Body) -> dict[str, Any]:
    route = "completions" if "prompt" in body else "chat/completions"
    request = urllib.request.Request(
        f"{url}/v1/{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def measure(engine: HttpEngine, bodies: list[Body], streams: int) -> Measurement:
    result = Measurement()
    with awake(engine), ThreadPoolExecutor(streams) as pool:
        begin = time.perf_counter()
        answers = list(pool.map(lambda body: ask(engine.url, body), bodies))
        result.duration = time.perf_counter() - begin
    for answer in answers:
        choice, timings = answer["choices"][0], answer.get("timings", {})
        result.texts.append(choice["message"]["content"] if "message" in choice else choice["text"])
        result.num_tokens += answer["usage"]["completion_tokens"]
        result.num_drafted += timings.get("draft_n", 0)
        result.num_accepted += timings.get("draft_n_accepted", 0)
        result.num_forced += timings.get("forced_n", 0)
    return result


def start(name: str, command: list[str]) -> HttpEngine:
    port = free_port()
    engine = HttpEngine(name, [*command, "--port", str(port)], port)
    ask(engine.url, chat("Say yes.", model="x", max_tokens=8))  # warm
    os.killpg(engine.process.pid, signal.SIGSTOP)
    return engine


def pairs(options: argparse.Namespace) -> Iterator[tuple[str, HttpEngine, HttpEngine]]:
    """By engine: without and with speculation."""
    serve = [sys.executable, "-m", "headrace", "serve", *shlex.split(options.headrace)]
    on = shlex.split(options.headrace_on)
    yield "headrace", start("off", [*serve, "--speculate", "0"]), start("on", [*serve, *on])
    if options.llama:
        llama = [options.llama, "-m", str(embedded_model()), "-np", "8", "-c", "32768"]
        llama += ["--no-webui", *shlex.split(options.llama_flags)]
        yield "llama", start("off", llama), start("on", [*llama, *shlex.split(options.llama_on)])


def compare(
    off: HttpEngine, on: HttpEngine, bodies: list[Body], streams: int, is_reversed: bool
) -> tuple[Measurement, Measurement]:
    """The one that goes first changes from round to round."""
    engines = (on, off) if is_reversed else (off, on)
    first, second = (measure(engine, bodies, streams) for engine in engines)
    return (second, first) if is_reversed else (first, second)


def line(name: str, rounds: list[tuple[Measurement, Measurement]]) -> str:
    ratio = statistics.median(on.throughput / off.throughput for off, on in rounds)
    off_pace, on_pace = (statistics.median(pair[i].throughput for pair in rounds) for i in (0, 1))
    num_tokens, drafted, accepted, forced = (
        sum(getattr(on, name) for _, on in rounds)
        for name in ("num_tokens", "num_drafted", "num_accepted", "num_forced")
    )
    is_same = all(on.texts == off.texts for off, on in rounds)
    return (
        f"{name:24} {off_pace:7.0f} -> {on_pace:7.0f} tok/s  {ratio:5.2f}x  "
        f"accepted {accepted / max(1, drafted):4.0%} of {drafted / num_tokens:.2f} per token, "
        f"forced {forced / num_tokens:4.0%}  {'same' if is_same else 'OTHER'} texts"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--headrace", default="", help="flags of both servers")
    parser.add_argument(
        "--headrace-on", default="--speculate 24", help="flags of the speculating server"
    )
    parser.add_argument("--llama", help="path of llama-server, to be compared with itself")
    parser.add_argument("--llama-flags", default="-t 2 -tb 2")
    parser.add_argument("--llama-on", default="--spec-type ngram-simple")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--requests", type=int, default=2, help="per stream and round")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    options = parser.parse_args()
    started = list(pairs(options))
    results: dict[str, list[tuple[Measurement, Measurement]]] = {}
    try:
        for number in range(options.rounds):
            for workload in options.workloads.split(","):
                for streams in map(int, options.streams.split(",")):
                    chance = random.Random(f"{options.seed} {workload} {streams} {number}")
                    bodies = [
                        {
                            "model": "x",
                            "max_tokens": options.max_tokens,
                            **WORKLOADS[workload](chance),
                        }
                        for _ in range(options.requests * streams)
                    ]
                    for name, off, on in started:
                        case = f"{name} {workload} {streams}"
                        pair = compare(off, on, bodies, streams, is_reversed=bool(number % 2))
                        results.setdefault(case, []).append(pair)
            print(f"after round {number + 1}", *map(line, results, results.values()), sep="\n")
            sys.stdout.flush()
    finally:
        for _, *engines in started:
            for engine in engines:
                os.killpg(engine.process.pid, signal.SIGKILL)
    if options.json:
        figures = {
            case: [[off.throughput, on.throughput, on.num_drafted, on.num_accepted, on.num_forced]
                   for off, on in rounds]
            for case, rounds in results.items()
        }  # fmt: skip
        Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
