from collections.abc import Iterator

import pytest

from tests.distributed.rank_group import RankGroup


@pytest.fixture(scope="package")
def two_ranks() -> Iterator[RankGroup]:
    with RankGroup(2) as group:
        yield group


@pytest.fixture(scope="package")
def three_ranks() -> Iterator[RankGroup]:
    with RankGroup(3) as group:
        yield group


@pytest.fixture(scope="package")
def four_ranks() -> Iterator[RankGroup]:
    with RankGroup(4) as group:
        yield group
