"""Main of a further rank: load its part of the model, then run every plan that rank 0 sends.

It has neither scheduler nor tokenizer, and nobody waits for what it samples.
"""

import logging
import os
import socket
import sys
import time
from contextlib import suppress

import torch

from headrace.engine.channel import Channel
from headrace.engine.process import main
from headrace.errors import StartupError
from headrace.observability.logging import setup
from headrace.runner.build import build_executor
from headrace.serve.ranks import RankOrder, end_with_peer, notice_silence
from headrace.types import StepPlan

log = logging.getLogger(__name__)

GRACE_SECONDS = 3.0
"""After an error of loading. Rank 0 most likely meets the same one, and shall be who reports it."""


def accept(listener: socket.socket) -> socket.socket | None:
    """Rank 0's connection from another host; None when who started this process ends before."""
    parent = os.getppid()
    listener.settimeout(1.0)
    while os.getppid() == parent:
        with suppress(TimeoutError):
            connection, _ = listener.accept()
            connection.settimeout(None)
            notice_silence(connection)
            return connection
    return None


def wait_for_order(connection: socket.socket) -> tuple[socket.socket, RankOrder] | None:
    """The connection to rank 0 and what it says first; None when it does not come to that.

    `connection`: to rank 0, or where it will call.
    """
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        called = accept(connection)
        if called is None:
            return None
        connection = called
    orders = Channel[RankOrder](connection, RankOrder).receive(wait=True)
    return (connection, orders[0]) if orders else None


def run(connection: socket.socket) -> int:
    """Work until rank 0 goes away; returns the exit code. See `wait_for_order`."""
    ordered = wait_for_order(connection)
    if ordered is None:
        return 1
    connection, order = ordered
    end_with_peer(connection)
    settings = order.settings
    setup("warning", settings.json_output)
    try:
        checkpoint = order.files.open_checkpoint()
        executor, _ = build_executor(
            settings, checkpoint, lambda *_: None, order.join(), order.files.drafter_path
        )
    except StartupError as error:
        log.error("rank %d: %s", order.rank, error)
        time.sleep(GRACE_SECONDS)
        return 1
    plans = Channel[StepPlan](connection, StepPlan)
    with torch.inference_mode():
        while (received := plans.receive_idle(executor.prepare)) is not None:
            for plan in received:
                executor.execute(plan)
    return 0


if __name__ == "__main__":
    sys.exit(main(run))
