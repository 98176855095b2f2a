"""One hub repository to a local folder: which of its files are needed, what may go wrong."""

import glob
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from headrace.checkpoint.download import Progress, RemoteFile, Snapshot, download
from headrace.checkpoint.peft import WEIGHTS as ADAPTER_WEIGHTS
from headrace.checkpoint.weight_files import gguf_files, weight_files
from headrace.errors import StartupError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

log = logging.getLogger(__name__)

DESCRIPTION = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
"""Configuration, tokenizer and templates, in the repository's top folder."""
TEMPLATES = "additional_chat_templates/*.jinja"
REFERENCE = re.compile(
    r"(?P<repo_id>[\w.-]+/[\w.-]+)(/(?P<file>.+\.gguf)|:(?P<quantization>[\w.-]+))?|[\w.-]+"
)


@dataclass(frozen=True)
class HubReference:
    """What a user calls a model on the hub."""

    repo_id: str
    gguf: str | None = None
    """Path of a GGUF file in the repository, or the quantization that its name has."""


def parse_reference(name: str) -> HubReference | None:
    """`org/name`, `org/name/file.gguf` or `org/name:Q4_K_M`; None for anything else."""
    match = REFERENCE.fullmatch(name)
    if match is None:
        return None
    return HubReference(match["repo_id"] or name, match["file"] or match["quantization"])


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Access to the hub through its cache on disk."""

    cache_dir: Path | None = None
    """None: the client's own default."""
    token: str | None = None
    offline: bool = False
    """Read the cache only."""
    progress: Progress = lambda done, total: None

    def fetch(
        self,
        reference: HubReference,
        revision: str | None = None,
        *,
        with_weights: bool = True,
        with_code: bool = False,
    ) -> Path:
        """The repository's local folder, or the (first) GGUF file in it.

        Downloads what is missing, and no more than needed: one format of weights, no other
        folders. `revision` is a branch, tag or commit. Raises StartupError with the next step.
        """
        # A second of import time that only hub models need.
        from huggingface_hub import errors

        try:
            if not self.offline:
                try:
                    return self._download(reference, revision, with_weights, with_code)
                except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
                    if not _is_outage(error):
                        raise
                    reason = str(error).splitlines()[0]
                    log.warning(
                        "%s cannot be reached (%s); trying its local copy", _page(reference), reason
                    )
            return self._cached(reference, revision, with_weights)
        except errors.HFValidationError as error:
            reason = f"neither a local path nor a hub id: {error}"
        except (errors.HfHubHTTPError, OSError) as error:
            reason = _explain(error, reference, revision, self.offline)
        raise StartupError(f"{reference.repo_id}: {reason}")

    def _download(
        self,
        reference: HubReference,
        revision: str | None,
        with_weights: bool,
        with_code: bool,
    ) -> Path:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        info = HfApi(token=self.token).model_info(
            reference.repo_id, revision=revision, files_metadata=True
        )
        snapshot = self._snapshot(reference.repo_id, info)
        names = snapshot.files
        description = description_files(names, with_code)
        download(snapshot, description, self.progress)
        weights = _weights(snapshot.folder, names, reference) if with_weights else ()
        download(snapshot, weights, self.progress)
        # Notes in the cache which commit the revision is, now that all of it is there.
        snapshot_download(
            reference.repo_id,
            revision=revision,
            cache_dir=snapshot.cache_dir,
            token=self.token,
            allow_patterns=[glob.escape(name) for name in (*description, *weights)],
        )
        return _opened(snapshot.folder, weights)

    def _snapshot(self, repo_id: str, info: "ModelInfo") -> Snapshot:
        assert info.sha is not None
        return Snapshot(
            repo_id=repo_id,
            commit=info.sha,
            files={
                file.rfilename: RemoteFile(file.size, file.lfs.sha256 if file.lfs else None)
                for file in info.siblings or ()
                if ".." not in PurePosixPath(file.rfilename).parts
            },
            cache_dir=self.cache_dir or _default_cache(),
            token=self.token,
        )

    def _cached(self, reference: HubReference, revision: str | None, with_weights: bool) -> Path:
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(
                reference.repo_id,
                revision=revision,
                cache_dir=self.cache_dir,
                local_files_only=True,
                allow_patterns=[],
            )
        )
        if not with_weights:
            return folder
        names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
        weights = _weights(folder, names, reference)
        if not weights:
            raise StartupError(
                f"{reference.repo_id}: the local copy in {folder} has no weights; download them "
                f"with: headrace download {reference.repo_id}"
            )
        return _opened(folder, weights)


def description_files(names: Collection[str], with_code: bool) -> list[str]:
    """All that a model needs besides its weights."""
    patterns = (*DESCRIPTION, "*.py") if with_code else DESCRIPTION
    return [
        name
        for name in names
        if fnmatch(name, TEMPLATES)
        or ("/" not in name and any(fnmatch(name, pattern) for pattern in patterns))
    ]


def _weights(folder: Path, names: Collection[str], reference: HubReference) -> tuple[str, ...]:
    """A model's weights, or else an adapter's."""
    if reference.gguf is not None:
        return gguf_files(names, reference.gguf, reference.repo_id)
    _, files = weight_files(folder, names)
    if files:
        return files
    if any(name.endswith(".gguf") for name in names):
        return gguf_files(names, None, reference.repo_id)
    return tuple(name for name in ADAPTER_WEIGHTS if name in names)[:1]


def _opened(folder: Path, weights: tuple[str, ...]) -> Path:
    """The folder, or the GGUF file, which is a model by itself."""
    return folder / weights[0] if weights and weights[0].endswith(".gguf") else folder


def _default_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _page(reference: HubReference) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{reference.repo_id}"


def _is_outage(error: Exception) -> bool:
    """Whether the hub cannot be reached or has no time for us, so that the cache must do."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(
        error,
        (errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError),  # type: ignore[attr-defined]
    )


def _explain(error: Exception, reference: HubReference, revision: str | None, offline: bool) -> str:
    """What went wrong and what to do about it."""
    from huggingface_hub import errors

    page = _page(reference)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"the model is gated: ask for access at {page}, "
            "then set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"not found at {page}; if the model is private, "
            "set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no revision {revision!r}; {page}/tree/main lists them"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"the hub refuses HF_TOKEN; set it to a token that may read {page}"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if offline:
            return "not in the local cache, and HF_HUB_OFFLINE forbids downloading it"
        return (
            f"not in the local cache, and {page} cannot be reached; "
            "check the network, or give a local folder"
        )
    return f"the download failed: {error}"
