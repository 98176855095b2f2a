"""The least runner: drives our decoder through ragged batches, as the executor does."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.attention.base import AttentionBackend, AttentionBatch, SampledTokens
from headrace.attention.native import NativeBackend
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.kernels import load as load_kernels
from headrace.models.decoder import Decoder
from headrace.models.load import LoadOptions, load_model
from headrace.runner.batch import BatchBuffers
from headrace.runner.executor import Model
from headrace.runner.recorded import RecordedDecoder
from tests.devices import CUDA


class Replayed:
    """A recorded decoder that takes its input from any tensors, not from the runner's buffers."""

    def __init__(self, decoder: Decoder) -> None:
        self.spec = decoder.spec
        buffers = BatchBuffers(512, 16, 64, 32, torch.device("cpu"), is_fixed=True)
        self._token_ids, self._batch = buffers.everything()
        self._recorded = RecordedDecoder(decoder, buffers, max_logit_rows=48)

    def forward(self, token_ids: torch.Tensor, batch: AttentionBatch) -> torch.Tensor:
        ours = self._batch
        self._token_ids[: len(token_ids)] = token_ids
        for name in ("positions", "slot_mapping", "query_start", "context_lens"):
            values = getattr(batch, name)
            getattr(ours, name)[: len(values)] = values
        if batch.sampled is not None:
            assert ours.sampled is not None
            ours.sampled.index[: len(batch.sampled.index)] = batch.sampled.index
            ours.sampled.query_start[: len(batch.sampled.query_start)] = batch.sampled.query_start
        rows, width = batch.block_table.shape
        ours.block_table[:rows, :width] = batch.block_table
        return self._recorded.forward(token_ids, batch).clone()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._recorded.logits(hidden).clone()


@dataclass
class Sequence:
    """One request: its tokens, how many are computed, its block table."""

    tokens: list[int]
    num_prompt_tokens: int
    blocks: list[int] = field(default_factory=list)
    computed: int = 0

    @property
    def is_in_prompt(self) -> bool:
        return self.computed < self.num_prompt_tokens


@dataclass
class Driver:
    """Builds batches and hands out blocks in a scattered order."""

    model: Model
    backend: AttentionBackend
    free: list[int] = field(default_factory=lambda: torch.randperm(200).tolist())

    def __post_init__(self) -> None:
        self.backend.allocate(200)

    def start(
        self,
        tokens: list[int],
        shared: Sequence | None = None,
        num_prompt_tokens: int | None = None,
    ) -> Sequence:
        """A new sequence; with `shared` its full blocks of equal prefix are taken over. All its
        tokens are its prompt, unless `num_prompt_tokens` says otherwise."""
        sequence = Sequence(list(tokens), num_prompt_tokens or len(tokens))
        if shared is not None:
            equal = 0
            while tokens[equal : equal + 1] == shared.tokens[equal : equal + 1] != []:
                equal += 1
            whole = min(equal, shared.computed, len(tokens) - 1) // self.backend.block_size
            sequence.blocks = shared.blocks[:whole]
            sequence.computed = whole * self.backend.block_size
        return sequence

    def step(
        self, work: list[tuple[Sequence, int]], num_sampled: int | None = None
    ) -> list[torch.Tensor]:
        """Compute so many tokens of each sequence, none across its prompt's end; logits [count, V]
        of each, or of its last `num_sampled` tokens, if it has so many."""
        order = sorted(range(len(work)), key=lambda i: work[i][0].is_in_prompt)
        results = self._step([work[i] for i in order], num_sampled)
        return [results[order.index(i)] for i in range(len(work))]

    def _step(
        self, work: list[tuple[Sequence, int]], num_sampled: int | None
    ) -> list[torch.Tensor]:
        """The same of sequences behind their prompts, then others."""
        size, counts = self.backend.block_size, [count for _, count in work]
        first_prompt = sum(not sequence.is_in_prompt for sequence, _ in work)
        ids, positions, slots = [], [], []
        for sequence, count in work:
            end = sequence.computed + count
            while len(sequence.blocks) * size < end:
                sequence.blocks.append(self.free.pop())
            for position in range(sequence.computed, end):
                ids.append(sequence.tokens[position])
                positions.append(position)
                slots.append(sequence.blocks[position // size] * size + position % size)
            sequence.computed = end
        widest = max(len(sequence.blocks) for sequence, _ in work)
        table = [s.blocks + [199] * (widest - len(s.blocks)) for s, _ in work]
        contexts = [sequence.computed for sequence, _ in work]

        def tensor(values: list[Any], dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype).to(self.backend.shape.device)

        batch = AttentionBatch(
            positions=tensor(positions),
            slot_mapping=tensor(slots, torch.int64),
            query_start=tensor([sum(counts[:s]) for s in range(len(counts) + 1)]),
            context_lens=tensor(contexts),
            block_table=tensor(table),
            max_query_len=max(counts),
            max_context_len=max(contexts),
            num_prompt_tokens=sum(counts[first_prompt:]),
        )
        if num_sampled is not None:
            kept = [min(count, num_sampled) for count in counts]
            ends = zip(batch.query_start[1:].tolist(), kept, strict=True)
            batch.sampled = SampledTokens(
                tensor([i for end, count in ends for i in range(end - count, end)]),
                tensor([sum(kept[:s]) for s in range(len(kept) + 1)]),
                num_prompt_tokens=sum(kept[first_prompt:]),
            )
            counts = kept
        with torch.inference_mode():
            hidden = self.model.forward(tensor(ids), batch)
            return list(self.model.logits(hidden).cpu().split(counts))

    def greedy(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        """Prefill all prompts together, then decode them as one batch."""
        sequences = [self.start(prompt) for prompt in prompts]
        for _ in range(num_tokens):
            work = [(s, len(s.tokens) - s.computed) for s in sequences]
            for sequence, logits in zip(sequences, self.step(work), strict=True):
                sequence.tokens.append(int(logits[-1].argmax()))
        return [s.tokens[len(p) :] for s, p in zip(sequences, prompts, strict=True)]


def drive(path: Path, **options: Any) -> Driver:
    """Our model of a checkpoint, in float32 on the CPU unless `options` say otherwise."""
    float32 = {"dtype": torch.float32, "kv_dtype": torch.float32, "device": torch.device("cpu")}
    decoder, backend = load_model(open_checkpoint(path), LoadOptions(**float32 | options))
    return Driver(decoder, backend)


def drive_kernels(path: Path, **options: Any) -> Driver:
    """The same through recorded passes of the CPU kernels, exact unless `options` say otherwise.

    What the kernels cannot do runs in plain torch, as in the server.
    """
    driver = drive(path, **{"kernels": load_kernels(), "exact_activations": True} | options)
    if isinstance(driver.backend, NativeBackend) and isinstance(driver.model, Decoder):
        driver.model = Replayed(driver.model)
    return driver


def drive_cuda(path: Path, **options: Any) -> Driver:
    """In plain torch on a GPU."""
    return drive(path, **{"device": CUDA} | options)


ENGINES = {"torch": drive, "kernels": drive_kernels}
ALL_ENGINES = ENGINES | {"cuda": drive_cuda}
every_engine = pytest.mark.parametrize(
    "engine", [*ENGINES, pytest.param("cuda", marks=pytest.mark.cuda)]
)
"""Plain torch, the recorded CPU kernels with exact activations, and plain torch on a GPU."""
