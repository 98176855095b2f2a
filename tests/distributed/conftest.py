from collections.abc import Iterator

import pytest

from tests.distributed.rank_group import RankGroup


@pytest.fixture(scope="package")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankGroup]:
    with RankGroup(2, tmp_path_factory.mktemp("two") / "memory") as group:
        yield group


@pytest.fixture(scope="package")
def three_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankGroup]:
    with RankGroup(3, tmp_path_factory.mktemp("three") / "memory") as group:
        yield group


@pytest.fixture(scope="package")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankGroup]:
    with RankGroup(4, tmp_path_factory.mktemp("four") / "memory") as group:
        yield group
