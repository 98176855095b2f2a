"""Collectives between ranks of one machine, here threads: compiled kernels beside their twins."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from headrace.kernels.base import Kernels
from headrace.kernels.ranks import RankMemory
from tests.kernels.samples import dense

ROWS, FEATURES = 40, 700


def memories(slot_floats: int) -> list[RankMemory]:
    storage = torch.zeros(RankMemory.num_bytes(2, slot_floats), dtype=torch.uint8)
    return [RankMemory(rank, 2, storage) for rank in range(2)]


@pytest.fixture(params=[False, True], ids=["native-first", "twins-first"])
def ranks(request: pytest.FixtureRequest, native: Kernels, twins: Kernels) -> list[Kernels]:
    """Two compiled ranks in one process would wait for each other's threads."""
    return [twins, native] if request.param else [native, twins]


@pytest.mark.parametrize("accumulate", [False, True])
def test_all_reduce(ranks: list[Kernels], accumulate: bool) -> None:
    parts, before = torch.randn(2, 6, ROWS, FEATURES), torch.randn(ROWS, FEATURES)
    shared = memories(ROWS * FEATURES)
    counts = [ROWS, 1, 0, 17, ROWS, 3]

    def work(rank: int) -> list[torch.Tensor]:
        results = []
        for x, count in zip(parts[rank], counts, strict=True):
            out, rows = before.clone(), torch.tensor([count], dtype=torch.int32)
            ranks[rank].all_reduce(shared[rank], x, out, accumulate=accumulate, rows=rows)
            results.append(out)
        return results

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(work, range(2))
    for index, count in enumerate(counts):
        total = parts[0, index] + parts[1, index]
        wanted = before.clone()
        wanted[:count] = (before + total if accumulate else total)[:count]
        assert torch.equal(first[index], wanted) and torch.equal(second[index], wanted)


@pytest.mark.parametrize("columns", [1000, 1001])
def test_all_gather(ranks: list[Kernels], columns: int) -> None:
    shared = memories(ROWS * 501)
    whole = torch.randn(ROWS, columns)

    def work(rank: int) -> torch.Tensor:
        out = torch.zeros(ROWS, columns)
        first, last = shared[rank].columns(columns)
        ranks[rank].all_gather(shared[rank], whole[:, first:last].contiguous(), out)
        return out

    with ThreadPoolExecutor(2) as threads:
        assert all(torch.equal(out, whole) for out in threads.map(work, range(2)))


def test_what_does_not_fit_is_refused(kernels: Kernels) -> None:
    memory, x = memories(100)[0], torch.zeros(3, 50)
    with pytest.raises(ValueError, match="do not fit"):
        kernels.all_reduce(memory, x, x)
    with pytest.raises(ValueError, match="columns"):
        kernels.all_gather(memory, torch.zeros(1, 50), torch.zeros(1, 120))


def test_part_of_a_vocabulary(kernels: Kernels) -> None:
    table = dense("float32", 20, 64)
    ids = torch.tensor([0, 29, 30, 49, 50, 99], dtype=torch.int32)
    out = torch.ones(6, 64)
    kernels.embedding(ids, table.pack(kernels), out, first_id=30, vocab_size=100)
    assert torch.equal(out[2:4].double(), table.values[[0, 19]])
    assert not out[[0, 1, 4, 5]].any()
    with pytest.raises(ValueError, match="outside the embedding"):
        kernels.embedding(ids + 1, table.pack(kernels), out, first_id=30, vocab_size=100)
    with pytest.raises(ValueError, match="beyond the vocabulary"):
        kernels.embedding(ids, table.pack(kernels), out, first_id=30, vocab_size=49)
