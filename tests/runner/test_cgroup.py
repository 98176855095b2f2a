from pathlib import Path

import pytest

from headrace.runner.cgroup import ControlGroup


def group(tmp_path: Path, membership: str, files: dict[str, str]) -> ControlGroup:
    for name, content in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "membership").write_text(membership)
    return ControlGroup(tmp_path / "mount", tmp_path / "membership")


VERSION_1 = {
    "memory/memory.limit_in_bytes": "5000\n",
    "memory/memory.usage_in_bytes": "3000\n",
    "memory/memory.stat": "cache 900\ntotal_inactive_file 800\n",
    "cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
    "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize("path", ["/", "/docker/of/the/host"])
def test_version_1_with_and_without_namespace(tmp_path: Path, path: str) -> None:
    found = group(tmp_path, f"4:memory:{path}\n2:cpu,cpuacct:{path}\n0::/\n", VERSION_1)
    assert found.available_memory() == 5000 - (3000 - 800)
    assert found.num_cores() == 1.5


def test_version_2_takes_the_tightest_of_all_levels(tmp_path: Path) -> None:
    files = {
        "pod/memory.max": "9000",
        "pod/memory.current": "8500",
        "pod/memory.stat": "inactive_file 100",
        "pod/cpu.max": "400000 100000",
        "pod/app/memory.max": "max",
        "pod/app/memory.current": "10",
        "pod/app/cpu.max": "max 100000",
    }
    found = group(tmp_path, "0::/pod/app\n", files)
    assert found.available_memory() == 600
    assert found.num_cores() == 4.0


def test_no_limits(tmp_path: Path) -> None:
    unlimited = {**VERSION_1, "memory/memory.limit_in_bytes": str(2**63 - 4096)}
    unlimited["cpu,cpuacct/cpu.cfs_quota_us"] = "-1"
    found = group(tmp_path, "4:memory:/\n2:cpu,cpuacct:/\n", unlimited)
    assert found.available_memory() is None and found.num_cores() is None
    assert ControlGroup(tmp_path / "none", tmp_path / "none").available_memory() is None


def test_a_group_over_its_limit_has_nothing(tmp_path: Path) -> None:
    files = {"memory.max": "100", "memory.current": "170", "memory.stat": "inactive_file 20"}
    assert group(tmp_path, "0::/\n", files).available_memory() == 0
