"""Main of the engine process: load the model, then run the engine loop until the channel closes.

The only host-side entry that imports torch. It ignores the signals meant for the server (service
managers send them to every process): the front end drains its requests first and then closes the
channel, which ends this process.
"""

import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path

import torch

from headrace.checkpoint.checkpoint import Checkpoint, open_checkpoint
from headrace.checkpoint.speculator import read_speculator
from headrace.engine.channel import Channel
from headrace.engine.core import EngineCore
from headrace.engine.grammar import GrammarCompiler
from headrace.engine.grammar_jobs import GrammarJobs
from headrace.engine.process import main
from headrace.engine.scheduler import Scheduler
from headrace.engine.speculation.prompt_lookup import PromptLookup
from headrace.engine.speculation.speculator import Speculator
from headrace.errors import StartupError
from headrace.models.load import check_num_ranks
from headrace.observability.logging import setup
from headrace.runner.build import Progress, build_executor
from headrace.serve.launch import EngineOrder
from headrace.serve.ranks import BroadcastExecutor, start_ranks
from headrace.text.tokenizer import Tokenizer, load_tokenizer
from headrace.types import Command, EngineFailure, EngineInfo, Executor, LoadProgress

log = logging.getLogger(__name__)


def run(connection: socket.socket) -> int:
    """Serve until the front end goes away; returns the exit code."""
    orders = Channel[EngineOrder](connection, EngineOrder).receive(wait=True)
    if not orders:
        return 1
    (order,) = orders
    settings = order.settings
    if order.cores:
        os.sched_setaffinity(0, order.cores)
    setup(settings.log_level, settings.json_output)
    channel = Channel[Command](connection, Command)

    def progress(stage: str, done: int, total: int) -> None:
        channel.send(LoadProgress(stage, done, total))

    try:
        checkpoint = order.files.open_checkpoint()
        if order.files.drafter_path is not None:
            check_drafter(order.files.drafter_path, checkpoint)
        executor, info = build(order, checkpoint, progress)
    except StartupError as error:
        channel.send(EngineFailure(str(error)))
        return 1
    num_drafts = settings.max_num_drafts(has_drafter=info.max_num_drafts > 0)
    scheduler = Scheduler(
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        max_batch_prefill_tokens=info.max_batch_prefill_tokens,
        max_num_seqs=info.max_num_seqs,
        prefix_caching=settings.prefix_caching,
        distinguishes_prompts=info.distinguishes_prompts,
        speculator=Speculator(PromptLookup(), num_drafts, info.max_num_drafts)
        if num_drafts
        else None,
    )
    channel.send(info)
    compiler = GrammarCompiler(partial(load_vocabulary, checkpoint), info.vocab_size)
    grammars = GrammarJobs(compiler, max_lookahead=num_drafts)
    with torch.inference_mode():
        EngineCore(scheduler, executor, channel, grammars).run()
    return 0


def check_drafter(path: Path, checkpoint: Checkpoint) -> None:
    """Raises StartupError for a draft model whose token ids mean other tokens; heads have none of
    their own."""
    if read_speculator(path) is None and not load_tokenizer(open_checkpoint(path)).has_same_ids_as(
        load_tokenizer(checkpoint)
    ):
        raise StartupError(
            f"--draft-model-id {path}: its tokenizer gives other ids to tokens than the model's; "
            "choose a draft model of the same family"
        )


def build(
    order: EngineOrder, checkpoint: Checkpoint, progress: Progress
) -> tuple[Executor, EngineInfo]:
    """The executor of the whole model, on all the ranks it shall have. Raises StartupError."""
    num_ranks, drafter = order.settings.num_shard or 1, order.files.drafter_path
    if num_ranks == 1:
        return build_executor(order.settings, checkpoint, progress, drafter=drafter)
    check_num_ranks(checkpoint, num_ranks)
    ranks, sockets = start_ranks(order, end_with_rank)
    executor, info = build_executor(order.settings, checkpoint, progress, ranks, drafter)
    return BroadcastExecutor(executor, sockets), info


def end_with_rank(reason: str) -> None:
    """A part of the model is gone: the client shall start the engine anew."""
    log.error("%s; the engine ends with it", reason)
    os._exit(1)


def load_vocabulary(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's tokens for grammars, to which all text is plain text."""
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.read_special_tokens_as_text()
    return tokenizer


if __name__ == "__main__":
    sys.exit(main(run))
