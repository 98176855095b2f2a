"""A whole engine process around the fake executor: `fake_engine.py OPTIONS_AS_JSON SOCKET`.

Options: `failure` (a message to fail the start with), `lethal_start` (exit at once with 3), all
else goes to `FakeExecutor`.
"""

import json
import socket
import sys

from headrace.engine.channel import Channel
from headrace.engine.core import EngineCore
from headrace.engine.fake import FakeExecutor
from headrace.engine.scheduler import Scheduler
from headrace.types import Command, EngineFailure, EngineInfo, LoadProgress
from tests.engine.vocabulary import grammar_jobs

NUM_BLOCKS, BLOCK_SIZE, BUDGET, MAX_NUM_SEQS, VOCAB_SIZE = 64, 4, 32, 8, 1000


def main() -> None:
    options = json.loads(sys.argv[1])
    channel: Channel[Command] = Channel(socket.socket(fileno=int(sys.argv[2])), Command)
    if options.pop("lethal_start", False):
        sys.exit(3)
    channel.send(LoadProgress("weights", 1, 2))
    if message := options.pop("failure", ""):
        channel.send(EngineFailure(message))
        sys.exit(1)
    scheduler = Scheduler(
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK_SIZE,
        max_batch_prefill_tokens=BUDGET,
        max_num_seqs=MAX_NUM_SEQS,
    )
    executor = FakeExecutor(
        num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, vocab_size=VOCAB_SIZE, **options
    )
    channel.send(
        EngineInfo(
            max_total_tokens=NUM_BLOCKS * BLOCK_SIZE,
            max_batch_prefill_tokens=BUDGET,
            max_num_seqs=MAX_NUM_SEQS,
            num_blocks=NUM_BLOCKS,
            block_size=BLOCK_SIZE,
            vocab_size=VOCAB_SIZE,
            device="none",
            dtype="none",
            kernels="none",
        )
    )
    EngineCore(scheduler, executor, channel, grammar_jobs(VOCAB_SIZE)).run()


if __name__ == "__main__":
    main()
