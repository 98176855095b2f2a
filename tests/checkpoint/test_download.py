"""Progress and failures of several downloads at once; the hub is `fake_hub`."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

from headrace.checkpoint import download as module
from headrace.checkpoint.download import RemoteFile, Snapshot, download
from headrace.errors import StartupError
from tests.checkpoint.fake_hub import FakeHub, Repository

LARGE = bytes(3_000_000)


def snapshot(hub: FakeHub, cache_dir: Path, sha256: str | None = None) -> Snapshot:
    repository = hub.repositories["org/model"]
    return Snapshot(
        repo_id="org/model",
        commit=repository.commit,
        files={name: RemoteFile(len(data), sha256) for name, data in repository.files.items()},
        cache_dir=cache_dir,
        token=None,
    )


def test_progress_speaks_the_interface_of_the_other_protocol() -> None:
    """The hub's chunked storage cannot be had on loopback; its reports can."""
    seen: list[tuple[int, int]] = []
    counter = module._ByteCounter(10, lambda done, total: seen.append((done, total)))
    progress_class = module._file_progress(counter, "a")
    with XetDownloadProgressReporter(
        reconstruction_desc="", log_level=0, total=10, tqdm_class=progress_class
    ) as reporter:
        for done in (4, 10):
            report = SimpleNamespace(
                total_bytes_completed=done,
                total_transfer_bytes_completed=done // 2,
                total_bytes_completion_rate=1.0,
                total_transfer_bytes_completion_rate=1.0,
                total_bytes=10,
            )
            reporter.update_progress(report)
    assert seen == [(0, 10), (4, 10), (10, 10)]


def test_one_failure_ends_all_downloads(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setattr(module, "WORKERS", 1)
    names = [f"{number}.bin" for number in range(6)]
    hub.repositories["org/model"] = Repository(dict.fromkeys(names, LARGE))
    hub.corrupt.add("0.bin")
    wrong = "0" * 64
    with pytest.raises(StartupError, match="0.bin arrived damaged"):
        download(snapshot(hub, tmp_path, wrong), names, lambda done, total: None)
    assert len(hub.fetched()) <= 2
    assert not list(tmp_path.rglob("*.bin"))


def test_bytes_that_are_there_already_count(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository({"a.bin": LARGE})
    download(snapshot(hub, tmp_path), ["a.bin"], lambda done, total: None)
    hub.repositories["org/model"] = Repository({"b.bin": LARGE})
    seen: list[tuple[int, int]] = []
    download(snapshot(hub, tmp_path), ["b.bin"], lambda *report: seen.append(report))
    assert seen == [(len(LARGE), len(LARGE))]
