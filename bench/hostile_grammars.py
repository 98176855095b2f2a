"""What streams feel of a flood of hostile grammars, against a running server.

    python -m bench.hostile_grammars http://127.0.0.1:8080

Plain streams run alone, then under the flood, then alone again. Printed are the percentiles of the
time to the first token and between the tokens of these streams.
"""

import argparse
import asyncio
import statistics
import time
from typing import Any

import httpx

HOSTILE: list[dict[str, Any]] = [
    {"type": "regex", "value": "((a{1000}){1000}){1000}"},
    {"type": "regex", "value": "(.*a){40}"},
    {"type": "regex", "value": "(" * 5000},
    {"type": "lark", "value": "start: " + "x" * 100},
    {"type": "lark", "value": 'start: a\na: a a | "x" | ""'},
    {"type": "json", "value": {"properties": {f"p{i}": {"type": "string"} for i in range(400)}}},
    {"type": "json", "value": {"properties": {"a": {"uniqueItems": True}}}},
]
TOKENS = 64


async def stream(client: httpx.AsyncClient, number: int, gaps: list[float]) -> float:
    """Seconds to the first token; those between the others go into `gaps`."""
    body = {
        "inputs": f"{number}. Once upon a time",
        "parameters": {"max_new_tokens": TOKENS, "ignore_eos": True},
    }
    begin = last = time.perf_counter()
    first = 0.0
    async with client.stream("POST", "/generate_stream", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                now = time.perf_counter()
                if first:
                    gaps.append(now - last)
                else:
                    first = now - begin
                last = now
    return first


async def flood(client: httpx.AsyncClient, statuses: dict[int, int]) -> None:
    """Hostile grammars one after another, for ever; those that fail are never cached."""
    number = 0
    while True:
        form = HOSTILE[number % len(HOSTILE)]
        body = {"inputs": "x", "parameters": {"grammar": form, "max_new_tokens": 8}}
        status = (await client.post("/generate", json=body)).status_code
        statuses[status] = statuses.get(status, 0) + 1
        number += 1


async def measure(client: httpx.AsyncClient, label: str, streams: int, rounds: int) -> None:
    gaps: list[float] = []
    firsts = [
        first
        for number in range(rounds)
        for first in await asyncio.gather(
            *(stream(client, number * streams + i, gaps) for i in range(streams))
        )
    ]
    for name, values in (("first token", firsts), ("between tokens", gaps)):
        cuts = statistics.quantiles(values, n=100)
        print(f"{label:12} {name:15} p50 {1000 * cuts[49]:7.1f} ms   p99 {1000 * cuts[98]:7.1f} ms")


async def run(options: argparse.Namespace) -> None:
    async with httpx.AsyncClient(base_url=options.url, timeout=120) as client:
        await measure(client, "alone", options.streams, options.rounds)
        statuses: dict[int, int] = {}
        floods = [asyncio.create_task(flood(client, statuses)) for _ in range(options.attackers)]
        await asyncio.sleep(1)
        await measure(client, "under flood", options.streams, options.rounds)
        for task in floods:
            task.cancel()
        print(f"hostile requests by status: {statuses}")
        await asyncio.sleep(1)
        await measure(client, "alone again", options.streams, options.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--attackers", type=int, default=4)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
