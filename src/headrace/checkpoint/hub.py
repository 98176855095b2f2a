"""From what a user calls a model to a local path, downloading from the hub when need be."""

from collections.abc import Callable
from pathlib import Path

from headrace.checkpoint.embedded import embedded_model
from headrace.errors import StartupError

PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
EXCLUDED = ["*/*", "consolidated*"]
"""Folders hold other formats; `consolidated` files repeat the weights in another layout."""


def locate(
    model_id: str | None,
    revision: str | None = None,
    cache_dir: Path | None = None,
    token: str | None = None,
    offline: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Path:
    """The local folder or .gguf file of a model.

    None is the embedded model, an existing path is itself, all else is a hub id of which
    safetensors, configuration and tokenizer are fetched into the hub's cache. `progress` hears
    one line before a download. Raises StartupError with the next step to take.
    """
    if model_id is None:
        return embedded_model()
    path = Path(model_id).expanduser()
    if path.exists():
        return path
    if model_id.startswith(("/", ".", "~")) or model_id.endswith(".gguf"):
        raise StartupError(f"--model-id {model_id}: no such file or folder")
    if not offline:
        progress(f"downloading {model_id}")
    return _download(model_id, revision, cache_dir, token, offline)


def _download(
    model_id: str, revision: str | None, cache_dir: Path | None, token: str | None, offline: bool
) -> Path:
    # A second of import time that only hub models need.
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=offline,
                allow_patterns=PATTERNS,
                ignore_patterns=EXCLUDED,
            )
        )
    except errors.GatedRepoError:
        reason = (
            f"the model is gated: ask for access at {_page(model_id)}, "
            "then set HF_TOKEN to a token of that account"
        )
    except errors.RepositoryNotFoundError:
        reason = (
            f"not found at {_page(model_id)}; if the model is private, "
            "set HF_TOKEN to a token that may read it"
        )
    except errors.RevisionNotFoundError:
        reason = f"no revision {revision!r}; {_page(model_id)}/tree/main lists them"
    except errors.HFValidationError as error:
        reason = f"neither a local path nor a hub id: {error}"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        reason = _unreachable(model_id, offline)
    except (errors.HfHubHTTPError, OSError) as error:
        reason = f"the download failed: {error}"
    raise StartupError(f"--model-id {model_id}: {reason}")


def _unreachable(model_id: str, offline: bool) -> str:
    if offline:
        return "not in the local cache, and HF_HUB_OFFLINE forbids downloading it"
    return (
        f"not in the local cache, and {_page(model_id)} cannot be reached; "
        "check the network, or give a local folder"
    )


def _page(model_id: str) -> str:
    return f"https://huggingface.co/{model_id}"
