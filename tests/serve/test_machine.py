import pytest

from headrace.config import Settings
from headrace.errors import StartupError
from headrace.serve.machine import Share, shares


def test_one_replica_gets_everything() -> None:
    assert shares(Settings(), range(8), ["0", "1"]) == [Share([], [])]


def test_cores_are_parted_in_neighbourhoods() -> None:
    parts = [share.cores for share in shares(Settings(num_replica=3), range(8), [])]
    assert sorted(sum(parts, [])) == list(range(8))
    assert all(part == list(range(part[0], part[-1] + 1)) for part in parts)
    assert {len(part) for part in parts} == {2, 3}


def test_replicas_share_cores_that_are_too_few() -> None:
    assert [share.cores for share in shares(Settings(num_replica=3), range(2), [])] == [[]] * 3


def test_devices_are_parted_by_rank() -> None:
    settings = Settings(num_replica=2, num_shard=2)
    devices = [share.cuda_devices for share in shares(settings, range(8), list("4567"))]
    assert devices == [["4", "5"], ["6", "7"]]
    assert [
        share.cuda_devices
        for share in shares(Settings(num_replica=2, device="cpu"), range(8), ["0"])
    ] == [[], []]


def test_too_few_devices_are_told() -> None:
    with pytest.raises(StartupError, match="--num-replica 3 .* 3 CUDA devices; 2 are visible"):
        shares(Settings(num_replica=3), range(8), ["0", "1"])
