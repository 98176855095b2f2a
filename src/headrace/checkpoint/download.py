"""Fetch files of one commit of a hub repository into the hub's cache: several at once, each
checked against what the hub says about it. Does not know what the files are for."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import StartupError

WORKERS = 8
Progress = Callable[[int, int], None]
"""Told how many bytes are there and how many there will be; called from several threads."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the hub says about a file."""

    size: int | None
    """Bytes; None where an imitation of the hub does not say."""
    sha256: str | None
    """Of large files only."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One commit of a repository, there and in the cache."""

    repo_id: str
    commit: str
    files: Mapping[str, RemoteFile]
    cache_dir: Path
    token: str | None

    @property
    def folder(self) -> Path:
        """Where the cache has its files; see the hub's documentation of its cache."""
        repository = "models--" + self.repo_id.replace("/", "--")
        return self.cache_dir / repository / "snapshots" / self.commit


class _Stopped(Exception):
    """Another file failed, so this one's download ends too."""


class _ByteCounter:
    """Bytes of all files together, for the progress display; the way to stop all downloads."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._lock = threading.Lock()
        self._total = total
        self._progress = progress
        self._done: dict[str, int] = {}
        """By file."""
        self.is_stopped = False

    def add(self, name: str, count: int) -> None:
        self.set(name, self._done.get(name, 0) + count)

    def set(self, name: str, done: int) -> None:
        if self.is_stopped:
            raise _Stopped
        with self._lock:
            self._done[name] = done
            self._progress(sum(self._done.values()), self._total)


def download(snapshot: Snapshot, names: Sequence[str], progress: Progress) -> None:
    """Fetch those of the files that the cache does not have whole.

    Connections that break are resumed. A file is in the cache only when it is whole; files that
    came before an error stay. Raises StartupError when the disk is too small or a file is not
    what the hub says; the client's own errors otherwise.
    """
    missing = [name for name in names if not _is_cached(snapshot, name)]
    total = sum(snapshot.files[name].size or 0 for name in missing)
    _check_space(snapshot, total)
    counter = _ByteCounter(total, progress)
    with ThreadPoolExecutor(WORKERS, "download") as pool:
        downloads = [pool.submit(_fetch, snapshot, name, counter) for name in missing]
        try:
            for done in as_completed(downloads):
                done.result()
        except BaseException:
            counter.is_stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _is_cached(snapshot: Snapshot, name: str) -> bool:
    """A file of the wrong size is removed: something other than the client damaged it."""
    path = snapshot.folder / name
    if not path.exists():
        return False
    if snapshot.files[name].size in (path.stat().st_size, None):
        return True
    _remove(path)
    return False


def _check_space(snapshot: Snapshot, needed: int) -> None:
    folder = snapshot.cache_dir
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StartupError(
            f"{snapshot.repo_id}: {needed / 1e9:.1f} GB are to be downloaded, but {folder} has "
            f"{free / 1e9:.1f} GB left; choose another folder with --huggingface-hub-cache"
        )


def _fetch(snapshot: Snapshot, name: str, counter: _ByteCounter) -> None:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        snapshot.repo_id,
        name,
        revision=snapshot.commit,
        cache_dir=snapshot.cache_dir,
        token=snapshot.token,
        tqdm_class=_file_progress(counter, name),
    )
    _verify(snapshot, name, Path(path))
    # The client counts nothing when the cache has the data under another commit.
    counter.set(name, snapshot.files[name].size or 0)


def _file_progress(counter: _ByteCounter, name: str) -> type:
    """A class with as much of tqdm's interface as the client uses for one file."""

    class FileProgress:
        def __init__(self, *args: object, initial: int = 0, **kwargs: object) -> None:
            counter.set(name, initial)

        def __enter__(self) -> "FileProgress":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            counter.add(name, int(count or 0))

        def update_transfer(self, count: float | None = 1) -> None:
            """Bytes on the wire, which may be fewer than those in the file."""

        def set_postfix_str(self, text: str, refresh: bool = False) -> None:
            pass

        def set_transfer_postfix_str(self, text: str, refresh: bool = False) -> None:
            pass

        def close(self) -> None:
            pass

    return FileProgress


def _verify(snapshot: Snapshot, name: str, path: Path) -> None:
    """The client compares sizes only."""
    expected = snapshot.files[name].sha256
    if expected is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        _remove(path)
        raise StartupError(
            f"{snapshot.repo_id}: {name} arrived damaged (SHA-256 {found}, expected {expected}) "
            "and was removed; start again to download it once more"
        )


def _remove(path: Path) -> None:
    """A file of the cache is a link to the data."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
