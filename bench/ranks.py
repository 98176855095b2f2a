"""One rank with many threads against many ranks with one thread each, and where their time goes.

python -m bench.ranks --model-id FOLDER --load-format dummy --ranks 2 --rows 1,8,32 --prompt 256

All groups of processes are loaded at the same time and measured in turns. "Without sums" is the
same group of ranks, each computing its part and waiting for nobody: the rest is exchange and
waiting.
`--collectives` measures one sum over the ranks instead, by the kernels (on one host, and as if each
rank were on a host of its own) and by gloo.
"""

import argparse
import multiprocessing
import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bench.step import decode_plan, median_ms, prompt_plan
from headrace import config
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.config import Settings
from headrace.distributed.ranks import OneRank, Ranks, join_ranks
from headrace.distributed.shard import Shard
from headrace.kernels import load as load_kernels
from headrace.kernels import ops
from headrace.layers.native import NativeOperations
from headrace.runner.build import build_executor
from headrace.types import SamplingParams

PARAMS = SamplingParams(max_tokens=64, temperature=0.0)
Measure = Callable[[str, int], float]
"""Milliseconds of ("rows" or "prompt", how many)."""


def step_measure(settings: Settings, ranks: Ranks) -> Measure:
    path = Path(settings.model_id) if settings.model_id else embedded_model()
    executor, _ = build_executor(settings, open_checkpoint(path), lambda *_: None, ranks)

    def measure(kind: str, count: int) -> float:
        if kind == "prompt":
            return median_ms(lambda: executor.execute(prompt_plan(count)), 1)
        executor.execute(decode_plan(count, 150, True, PARAMS))
        plan = decode_plan(count, 150, False, PARAMS)
        return median_ms(lambda: executor.execute(plan), 7)

    return measure


def collective_measure(settings: Settings, ranks: Ranks) -> Measure:
    kernels = load_kernels("native")
    memory = ranks.memory(512 * 2048)
    assert memory is not None

    def measure(kind: str, count: int) -> float:
        x, out = torch.ones(count, 2048), torch.zeros(count, 2048)
        with kernels.record() as program:
            kernels.run(ops.AllReduce(memory, x, out, accumulate=True))
        return median_ms(program.run if kind == "kernels" else lambda: ranks.all_reduce(x), 200)

    return measure


def without_sums(settings: Settings, ranks: Ranks) -> Measure:
    """Results are wrong, times are those of the computation alone."""
    NativeOperations.all_reduce = lambda self, partial, residual=None: (  # type: ignore[method-assign]
        partial if residual is None else residual
    )
    return step_measure(settings, ranks)


def work(
    make: Callable[[Settings, Ranks], Measure], settings: Settings, shard: Shard, port: int,
    is_spread: bool, orders: Connection,
) -> None:  # fmt: skip
    ranks: Ranks = OneRank()
    if shard.size > 1:
        store = TCPStore("127.0.0.1", port, is_master=shard.rank == 0)
        host = str(shard.rank) if is_spread else "this"
        ranks = join_ranks(shard, store, torch.device("cpu"), host)
    measure = make(settings, ranks)
    orders.send(None)
    while True:
        orders.send(measure(*orders.recv()))


class Group:
    """Processes that measure the same at the same time."""

    def __init__(
        self,
        make: Callable[[Settings, Ranks], Measure],
        settings: Settings,
        size: int,
        port: int,
        *,
        is_spread: bool = False,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.orders: list[Connection] = []
        self.processes: list[multiprocessing.process.BaseProcess] = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            arguments = (make, settings, Shard(rank, size), port, is_spread, theirs)
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            self.processes.append(process)
            self.orders.append(ours)
        for order in self.orders:
            order.recv()

    def measure(self, *order: Any) -> float:
        for connection in self.orders:
            connection.send(order)
        return max(connection.recv() for connection in self.orders)

    def end(self) -> None:
        for process in self.processes:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--collectives", action="store_true")
    options, rest = parser.parse_known_args()
    settings, _ = config.parse(rest, prog="ranks.py")
    settings = replace(settings, cpu_threads=options.ranks, max_batch_size=64)
    rows, port = list(map(int, options.rows.split(","))), 20000 + os.getpid() % 20000
    if options.collectives:
        one = Group(collective_measure, settings, options.ranks, port)
        spread = Group(collective_measure, settings, options.ranks, port + 1, is_spread=True)
        ways = [("kernels", one), ("kernels", spread), ("gloo", one)]
        cases = [
            (f"{kind}{', hosts' if group is spread else ''}, {n} x 2048", group, (kind, n))
            for n in rows
            for kind, group in ways
        ]
    else:
        groups = {
            "one rank": Group(step_measure, settings, 1, port),
            f"{options.ranks} ranks": Group(step_measure, settings, options.ranks, port),
            "without sums": Group(without_sums, settings, options.ranks, port + 1),
            "on hosts of their own": Group(
                step_measure, settings, options.ranks, port + 2, is_spread=True
            ),
        }
        orders = [("rows", n) for n in rows] + [("prompt", options.prompt)]
        cases = [
            (f"{kind} {n}: {name}", group, (kind, n))
            for kind, n in orders
            for name, group in groups.items()
        ]
    samples: dict[str, list[float]] = {name: [] for name, _, _ in cases}
    print("loaded", flush=True)
    for _ in range(options.rounds):
        for name, group, order in cases:
            samples[name].append(group.measure(*order))
    for group in {id(group): group for _, group, _ in cases}.values():
        group.end()
    for name, values in samples.items():
        print(f"{name:28} {statistics.median(values):9.3f} ms (best {min(values):.3f})")


if __name__ == "__main__":
    main()
