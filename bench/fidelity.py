"""How near to float32 one way of running a model is, on real text, and how quick: measured in
process, without a server. `schemes.py` makes a table of many."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from pydoc_data import topics

import torch
from torch import Tensor

from headrace.attention.base import SampledTokens
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.models.load import LoadOptions, load_model
from headrace.runner.batch import BatchBuffers
from headrace.runner.recorded import recorded
from headrace.text.tokenizer import load_tokenizer

WINDOW = 512
BLOCK = 32
ROWS = 8
CONTEXT = 150
"""Tokens behind those whose decode is timed."""
FLOAT32 = LoadOptions(dtype=torch.float32, device=torch.device("cpu"), kv_dtype=torch.float32)


def text() -> str:
    """English prose that every Python has: the topics of its help system."""
    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def text_windows(tokens: int) -> list[list[int]]:
    """Token ids of the beginning of `text`, cut into windows."""
    tokenizer = load_tokenizer(open_checkpoint(embedded_model()))
    ids = tokenizer.encode(text()[: 8 * tokens], False).ids[:tokens]
    return [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]


class Probe:
    """One way to run a model, as the server would: up to ROWS sequences of WINDOW tokens."""

    def __init__(self, path: Path, options: LoadOptions) -> None:
        blocks = WINDOW // BLOCK
        decoder, backend = load_model(open_checkpoint(path), options)
        backend.allocate(ROWS * blocks + 1)
        buffers = BatchBuffers(WINDOW, ROWS, blocks, BLOCK, torch.device("cpu"), is_fixed=True)
        self._model = recorded(decoder, backend, buffers, WINDOW)
        self.weight_bytes = decoder.weight_bytes
        self._token_ids, self._batch = buffers.everything()
        assert self._batch.sampled is not None
        self._sampled = self._batch.sampled
        self._batch.block_table[:] = 1 + torch.arange(ROWS * blocks).view(ROWS, blocks)

    def logits(self, windows: list[list[int]]) -> Iterator[Tensor]:
        """[512, V] of each window."""
        for window in windows:
            self._token_ids[:] = torch.tensor(window)
            yield self._run(1, 0, WINDOW).clone()

    def speed(self, seconds: float = 2.0) -> dict[str, float]:
        """Tokens per second of decode steps of 1 and 8 rows and of a prompt of 512 tokens, head
        included."""
        return {
            "one_row": 1 / _median(lambda: self._run(1, CONTEXT, 1), seconds),
            "eight_rows": 8 / _median(lambda: self._run(8, CONTEXT, 1), seconds),
            "prompt": WINDOW / _median(lambda: self._run(1, 0, WINDOW, only_last=True), seconds),
        }

    @torch.inference_mode()
    def _run(self, rows: int, first: int, count: int, *, only_last: bool = False) -> Tensor:
        """`count` tokens behind the `first` ones of each row, of a prompt unless it is one: the
        logits of the last token, or of all."""
        batch, total = self._batch, rows * count
        positions = torch.arange(first, first + count)
        batch.positions[:total] = positions.repeat(rows)
        slots = BLOCK + WINDOW * torch.arange(rows)[:, None] + positions
        batch.slot_mapping[:total] = slots.flatten()
        batch.query_start[: rows + 1] = count * torch.arange(rows + 1)
        batch.context_lens[:rows] = first + count
        part = replace(
            batch, positions=batch.positions[:total], slot_mapping=batch.slot_mapping[:total],
            query_start=batch.query_start[: rows + 1], context_lens=batch.context_lens[:rows],
            block_table=batch.block_table[:rows],
            max_query_len=count, max_context_len=first + count,
            num_prompt_tokens=total if count > 1 else 0, sampled=None,
        )  # fmt: skip
        if only_last:
            index, starts = self._sampled.index, self._sampled.query_start
            index[0], starts[1] = total - 1, 1
            part.sampled = SampledTokens(index[:1], starts[:2], num_prompt_tokens=1)
        return self._model.logits(self._model.forward(self._token_ids[:total], part))


def _median(step: Callable[[], object], seconds: float) -> float:
    """Of as many steps as fit; the first one does not count."""
    step()
    samples: list[float] = []
    while sum(samples) < seconds or len(samples) < 3:
        begin = time.perf_counter()
        step()
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples)


def scored(window: Tensor) -> Tensor:
    """Log-probabilities of the logits [T, V] in a window's second half that have a next token."""
    return window[WINDOW // 2 : -1].double().log_softmax(-1)


def compare(
    windows: list[list[int]], logits: Iterable[Tensor], reference: list[Tensor]
) -> dict[str, float]:
    """Mean KL divergence in nats to `reference` (see `scored`), the share of positions with the
    same likeliest token, and perplexity, over the second half of each window."""
    sums = torch.zeros(3, dtype=torch.float64)
    for window, mine, wanted in zip(windows, logits, reference, strict=True):
        got, following = scored(mine), torch.tensor(window[WINDOW // 2 + 1 :])[:, None]
        sums[0] += (wanted.exp() * (wanted - got)).sum()
        sums[1] += (wanted.argmax(-1) == got.argmax(-1)).sum()
        sums[2] -= got.gather(1, following).sum()
    kl, same_top, loss = (sums / sum(len(wanted) for wanted in reference)).tolist()
    return {"kl": kl, "same_top": same_top, "perplexity": math.exp(loss)}
