"""What the scheduler's own work costs per step of decodes, by running requests, without a model.

python -m bench.scheduler --running 1,32,256,1024

CPU time of the one thread, of planning a step and of taking in its tokens; medians and the least.
"""

import argparse
import gc
import statistics
import time

from headrace.engine.scheduler import Scheduler
from headrace.types import Add, RowOutput, SamplingParams, StepOutput

BLOCK_SIZE = 32
PROMPT_TOKENS = 65
MAX_TOKENS = 2048
WARM_UP_STEPS = 60


def scheduler(num_running: int) -> Scheduler:
    """With so many requests, none of which ends."""
    made = Scheduler(
        num_blocks=num_running * MAX_TOKENS // BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        max_batch_prefill_tokens=2048,
        max_num_seqs=num_running,
    )
    for number in range(num_running):
        prompt_ids = [(number * 3 + position) % 1000 for position in range(PROMPT_TOKENS)]
        params = SamplingParams(max_tokens=MAX_TOKENS - PROMPT_TOKENS, temperature=0.0)
        assert not made.add(Add(request_id=number, prompt_ids=prompt_ids, params=params))
    return made


def step(scheduler: Scheduler) -> tuple[float, float]:
    """Seconds of planning and of updating."""
    begin = time.thread_time()
    plan = scheduler.schedule()
    planned = time.thread_time()
    rows = [RowOutput(token_ids=[7] if count else []) for count in plan.num_samples]
    output = StepOutput(rows=rows)
    executed = time.thread_time()
    scheduler.update(plan, output)
    scheduler.stats()
    return planned - begin, time.thread_time() - executed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--running", default="1,32,256,1024")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    for num_running in map(int, options.running.split(",")):
        made = scheduler(num_running)
        for _ in range(WARM_UP_STEPS):
            step(made)
        gc.collect()
        gc.freeze()  # as the engine's loop does
        taken = [step(made) for _ in range(options.steps)]
        plan, update = (statistics.median(each) * 1e6 for each in zip(*taken, strict=True))
        least = min(map(sum, taken)) * 1e6
        print(
            f"{num_running:5} running: {plan:.1f} + {update:.1f} us a step, at least {least:.1f}: "
            f"{least / num_running:.2f} us a request"
        )


if __name__ == "__main__":
    main()
