"""Where a step's time goes, in one process without HTTP: forward pass, head, all around them.

python -m bench.step --rows 1,8,32 --prompt 512 --context 150
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from headrace import config
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.runner.build import build_executor
from headrace.types import RowStart, SamplingParams, StepPlan

BLOCK = 32


def decode_plan(rows: int, context: int, first: bool, params: SamplingParams) -> StepPlan:
    """One decode of `rows` rows that all have `context` tokens; blocks are dealt out in order."""
    width = -(-(context + 64) // BLOCK)
    blocks = [list(range(1 + r * width, 1 + (r + 1) * width)) for r in range(rows)]
    starts = [RowStart(row=r, params=params, token_ids=[5] * context, num_prompt_tokens=context)
              for r in range(rows)]  # fmt: skip
    return StepPlan(
        ended=[], started=starts if first else [], rows=list(range(rows)), starts=[context] * rows,
        counts=[1] * rows, token_ids=list(range(100, 100 + rows)),
        new_blocks=blocks if first else [[] for _ in range(rows)], num_samples=[1] * rows,
    )  # fmt: skip


def prompt_plan(length: int) -> StepPlan:
    blocks = list(range(1, 2 + length // BLOCK))
    params = SamplingParams(max_tokens=8, temperature=0.0)
    start = RowStart(row=0, params=params, token_ids=[5] * length, num_prompt_tokens=length)
    return StepPlan(
        ended=[], started=[start], rows=[0], starts=[0], counts=[length],
        token_ids=[(7 * i) % 40000 for i in range(length)], new_blocks=[blocks], num_samples=[1],
        num_prompt_rows=1,
    )  # fmt: skip


def median_ms(function: Callable[[], object], repeats: int) -> float:
    samples = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--context", type=int, default=150)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=40)
    options, rest = parser.parse_known_args()
    settings, _ = config.parse(rest, prog="bench.step")
    path = Path(settings.model_id) if settings.model_id else embedded_model()
    executor, info = build_executor(settings, open_checkpoint(path), lambda *_: None)
    print(f"{info.kernels}; weights {info.weight_bytes / 1e6:.1f} MB")
    params = SamplingParams(max_tokens=64, temperature=options.temperature)
    model = executor._model
    forward, logits = model.forward, model.logits
    spent = {"forward": 0.0, "head": 0.0}

    def timed(name: str, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(*arguments: object) -> torch.Tensor:
            begin = time.perf_counter()
            result = function(*arguments)
            spent[name] += time.perf_counter() - begin
            return result

        return call

    model.forward, model.logits = timed("forward", forward), timed("head", logits)  # type: ignore[method-assign]
    for rows in map(int, options.rows.split(",")):
        executor.execute(decode_plan(rows, options.context, True, params))
        plan = decode_plan(rows, options.context, False, params)
        spent.update(forward=0.0, head=0.0)
        step = median_ms(partial(executor.execute, plan), options.repeats)
        forward_ms, head_ms = (spent[k] * 1e3 / options.repeats for k in ("forward", "head"))
        print(
            f"rows {rows:3}: step {step:7.2f} ms ({rows / step * 1e3:6.0f} tok/s); means: "
            f"forward {forward_ms:.2f}, head {head_ms:.2f}"
        )
    if options.prompt:
        step = median_ms(lambda: executor.execute(prompt_plan(options.prompt)), 8)
        print(f"prompt {options.prompt}: {step:.1f} ms ({options.prompt / step * 1e3:.0f} tok/s)")


if __name__ == "__main__":
    main()
