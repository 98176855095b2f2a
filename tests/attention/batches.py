"""Random ragged batches over a scattered cache, and attention in its plainest form."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from headrace.attention.base import (
    AttentionBatch,
    AttentionOptions,
    AttentionShape,
    LayerShape,
)
from headrace.attention.native import NativeBackend
from headrace.attention.paged import PagedBackend
from headrace.attention.varlen import VarlenBackend
from tests.devices import CPU

Backend = PagedBackend | VarlenBackend | NativeBackend
HEADS, KV_HEADS, HEAD_SIZE = 6, 2, 16


def layer_shape(**changes: Any) -> LayerShape:
    sizes = {"num_heads": HEADS, "num_kv_heads": KV_HEADS, "head_size": HEAD_SIZE}
    return LayerShape(**sizes | changes)


def shape(*layers: LayerShape, **changes: Any) -> AttentionShape:
    """Of these layers, or of two usual ones."""
    values = {
        "layers": layers or (layer_shape(), layer_shape()),
        "dtype": torch.float32,
        "kv_dtype": torch.float32,
        "device": CPU,
    }
    return AttentionShape(**values | changes)


@dataclass
class Case:
    """Sequences as (tokens of this step, tokens computed before)."""

    sequences: list[tuple[int, int]]
    window: int | None = None
    soft_cap: float | None = None
    alibi_slopes: list[float] | None = None
    sinks: list[float] | None = None
    chunk: int | None = None
    value_size: int = HEAD_SIZE
    """Less: values are the first elements of keys."""
    seed: int = 0

    def options(self, device: torch.device) -> AttentionOptions:
        def tensor(values: list[float] | None) -> torch.Tensor | None:
            return None if values is None else torch.tensor(values, device=device)

        return AttentionOptions(
            scale=HEAD_SIZE**-0.5,
            window=self.window,
            soft_cap=self.soft_cap,
            alibi_slopes=tensor(self.alibi_slopes),
            sinks=tensor(self.sinks),
            chunk=self.chunk,
        )

    def tokens(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Query, key and value of each whole context."""
        generator = torch.Generator().manual_seed(self.seed)
        contexts = []
        for count, before in self.sequences:
            query, key, value = (
                torch.randn(count + before, heads, HEAD_SIZE, generator=generator)
                for heads in (HEADS, KV_HEADS, KV_HEADS)
            )
            value = value if self.value_size == HEAD_SIZE else key[..., : self.value_size]
            contexts.append((query, key, value))
        return contexts


def batch_of(
    sequences: list[tuple[int, int]], tables: list[list[int]], size: int, device: torch.device = CPU
) -> AttentionBatch:
    counts = [count for count, _ in sequences]
    contexts = [count + before for count, before in sequences]
    positions = [p for count, before in sequences for p in range(before, before + count)]
    slots = [
        table[p // size] * size + p % size
        for (count, before), table in zip(sequences, tables, strict=True)
        for p in range(before, before + count)
    ]
    junk = 2**31 - 1
    table = [
        [block if i * size < context else junk for i, block in enumerate(table)]
        for table, context in zip(tables, contexts, strict=True)
    ]
    with device:
        return AttentionBatch(
            positions=torch.tensor(positions, dtype=torch.int32),
            slot_mapping=torch.tensor(slots),
            query_start=torch.tensor([0, *counts]).cumsum(0).int(),
            context_lens=torch.tensor(contexts, dtype=torch.int32),
            block_table=torch.tensor(table, dtype=torch.int32),
            max_query_len=max(counts),
            max_context_len=max(contexts),
        )


def cache_of(backend: Backend) -> list[torch.Tensor]:
    """All tensors that keep keys and values."""
    if isinstance(backend, NativeBackend):
        return [part for cache in backend.caches for part in (cache.keys, cache.values)]
    return [*backend.keys, *backend.values]


def run(backend: Backend, case: Case, layer: int = 0) -> torch.Tensor:
    """Fill the cache with the tokens computed before, then attend with the others; on the CPU.

    What nobody wrote is NaN, as the leftovers of a request that went wrong may be.
    """
    size, device, dtype = backend.block_size, backend.shape.device, backend.shape.dtype
    blocks = -(-max(sum(s) for s in case.sequences) // size) + 1
    backend.allocate(len(case.sequences) * blocks)
    for part in cache_of(backend):
        part.fill_(math.nan)
    generator = torch.Generator().manual_seed(case.seed)
    order = torch.randperm(len(case.sequences) * blocks, generator=generator)
    tables = order.view(-1, blocks).tolist()
    contexts = [[x.to(device, dtype) for x in own] for own in case.tokens()]
    earlier = [(s, i) for i, s in enumerate(case.sequences) if s[1]]
    if earlier:
        batch = batch_of(
            [(s[1], 0) for s, _ in earlier], [tables[i] for _, i in earlier], size, device
        )
        parts = [[x[: s[1]] for x in contexts[i]] for s, i in earlier]
        query, key, value = (torch.cat(xs) for xs in zip(*parts, strict=True))
        backend.forward(layer, query, key, value, batch, case.options(device))
    parts = [
        [x[before:] for x in c] for c, (_, before) in zip(contexts, case.sequences, strict=True)
    ]
    query, key, value = (torch.cat(xs) for xs in zip(*parts, strict=True))
    batch = batch_of(case.sequences, tables, size, device)
    return backend.forward(layer, query, key, value, batch, case.options(device)).cpu()


def expected_output(case: Case) -> torch.Tensor:
    """One token and one head at a time, in float64."""
    rows = []
    for (query, key, value), (_, before) in zip(case.tokens(), case.sequences, strict=True):
        for position in range(before, len(query)):
            first = 0 if case.window is None else max(0, position + 1 - case.window)
            if case.chunk is not None:
                first = max(first, position // case.chunk * case.chunk)
            for head in range(HEADS):
                shared = head * KV_HEADS // HEADS
                keys = key[first : position + 1, shared].double()
                scores = keys @ query[position, head].double() * HEAD_SIZE**-0.5
                if case.soft_cap is not None:
                    scores = case.soft_cap * (scores / case.soft_cap).tanh()
                if case.alibi_slopes is not None:
                    distances = position - torch.arange(first, position + 1)
                    scores = scores - case.alibi_slopes[head] * distances
                exponentials = scores.exp()
                total = exponentials.sum()
                if case.sinks is not None:
                    total = total + math.exp(case.sinks[head])
                rows.append(exponentials / total @ value[first : position + 1, shared].double())
    return torch.stack(rows).view(-1, HEADS * case.value_size).float()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lengths = st.tuples(st.integers(1, 40), st.integers(0, 70))
    decodes = draw(st.lists(st.tuples(st.just(1), st.integers(0, 70)), max_size=4))
    prompts = draw(st.lists(lengths, max_size=3, min_size=0 if decodes else 1))
    return Case(
        sequences=decodes + prompts,
        window=draw(st.none() | st.integers(1, 50)),
        soft_cap=draw(st.none() | st.floats(0.5, 20)),
        alibi_slopes=draw(st.none() | st.lists(st.floats(0, 2), min_size=HEADS, max_size=HEADS)),
        seed=draw(st.integers(0, 100)),
    )
