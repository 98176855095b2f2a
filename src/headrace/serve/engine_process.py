"""Main of the engine process: load the model, then run the engine loop until the channel closes.

The only host-side entry that imports torch. It ignores the signals meant for the server (a
terminal or a service manager sends them to every process of the group): the front end drains its
requests first and then closes the channel, which ends this process.
"""

import signal
import socket
import sys
from pathlib import Path

import msgspec

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.engine.channel import Channel
from headrace.engine.core import EngineCore
from headrace.engine.scheduler import Scheduler
from headrace.errors import StartupError
from headrace.observability import logging
from headrace.runner.build import build_executor
from headrace.serve.launch import EngineOrder
from headrace.types import Command, EngineFailure, LoadProgress


def run(order: EngineOrder, channel: Channel[Command]) -> int:
    """Serve until the front end goes away; returns the exit code."""

    def progress(stage: str, done: int, total: int) -> None:
        channel.send(LoadProgress(stage, done, total))

    try:
        checkpoint = open_checkpoint(Path(order.checkpoint))
        executor, info = build_executor(order.settings, checkpoint, progress)
    except StartupError as error:
        channel.send(EngineFailure(str(error)))
        return 1
    channel.send(info)
    scheduler = Scheduler(
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        max_batch_prefill_tokens=info.max_batch_prefill_tokens,
        max_num_seqs=info.max_num_seqs,
        prefix_caching=order.settings.prefix_caching,
    )
    EngineCore(scheduler, executor, channel).run()
    return 0


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=EngineOrder)
    logging.setup(order.settings.log_level, order.settings.json_output)
    with socket.socket(fileno=order.channel) as connection:
        return run(order, Channel(connection, Command))


if __name__ == "__main__":
    sys.exit(main())
