"""Collectives of the kernels on real ranks: the same bits, whichever ranks share a host."""

import pytest
import torch

from headrace.distributed.ranks import Ranks
from headrace.kernels import load
from tests.distributed.rank_group import RankGroup

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROWS, FEATURES, COLUMNS = 20, 96, 1001
COUNTS = [20, 1, 0, 7, 20, 3]


def exchange(ranks: Ranks, kind: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Sums of different numbers of rows, recorded once, and a matrix put together."""
    kernels, memory = load(kind), ranks.memory(ROWS * max(FEATURES, -(-COLUMNS // 4)))
    assert memory is not None
    x, out = torch.zeros(ROWS, FEATURES), torch.zeros(ROWS, FEATURES)
    rows = torch.zeros(1, dtype=torch.int32)
    with kernels.record() as program:
        kernels.all_reduce(memory, x, out, accumulate=True, rows=rows)
    sums = []
    generator = torch.Generator().manual_seed(ranks.shard.rank)
    for count in COUNTS:
        x.copy_(torch.randn(ROWS, FEATURES, generator=generator))
        rows[0] = count
        program.run()
        sums.append(out.clone())
    columns = ranks.shard.slice(COLUMNS)
    gathered = torch.zeros(ROWS, COLUMNS)
    part = torch.arange(float(ROWS * COLUMNS)).view(ROWS, COLUMNS)[:, columns.start : columns.stop]
    kernels.all_gather(memory, part.contiguous(), gathered)
    return sums, gathered


@pytest.mark.parametrize("kind", ["native", "torch"])
@pytest.mark.parametrize("hosts", ["abcd", "aabc", "abbb"])
def test_hosts_change_no_bit(kind: str, hosts: str, four_ranks: RankGroup) -> None:
    expected, _ = four_ranks.run(exchange, kind)[0]
    whole = torch.arange(float(ROWS * COLUMNS)).view(ROWS, COLUMNS)
    for sums, gathered in four_ranks.on(hosts).run(exchange, kind):
        assert all(torch.equal(*pair) for pair in zip(sums, expected, strict=True))
        assert torch.equal(gathered, whole)


def sizes(ranks: Ranks) -> tuple[int, int, int]:
    return ranks.local_size, ranks.total(ranks.shard.rank), ranks.minimum(5 + ranks.shard.rank)


def test_every_rank_knows_its_host(four_ranks: RankGroup) -> None:
    assert four_ranks.on("aabc").run(sizes) == [(2, 6, 5), (2, 6, 5), (1, 6, 5), (1, 6, 5)]
