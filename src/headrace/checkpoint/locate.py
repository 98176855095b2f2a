"""From what a user calls a model to local paths, downloading from the hub when need be."""

from dataclasses import dataclass
from pathlib import Path

from headrace.checkpoint import peft
from headrace.checkpoint.embedded import embedded_model
from headrace.checkpoint.hub import Hub, parse_reference
from headrace.checkpoint.weight_files import weight_files
from headrace.errors import StartupError


@dataclass(frozen=True)
class Located:
    """Where a model lies."""

    path: Path
    """A folder or a .gguf file."""
    adapter: Path | None = None
    """Folder of a LoRA adapter to merge into it."""


def locate(
    model_id: str | None,
    hub: Hub,
    revision: str | None = None,
    *,
    with_weights: bool = True,
    with_code: bool = False,
) -> Located:
    """Where a model lies, after downloading it if need be.

    None is the embedded model, an existing path is itself, all else is a hub reference. If it is
    an adapter, the model that it changes is located too. Raises StartupError with the next step.
    """
    if model_id is None:
        return Located(embedded_model())

    def find(name: str, revision: str | None) -> Path:
        return _find(name, hub, revision, with_weights=with_weights, with_code=with_code)

    path = find(model_id, revision)
    if not _is_only_adapter(path):
        return Located(path)
    return Located(find(peft.base_model(path), None), adapter=path)


def _find(
    name: str, hub: Hub, revision: str | None, *, with_weights: bool, with_code: bool
) -> Path:
    path = Path(name).expanduser()
    if path.exists():
        return path
    reference = None if name.startswith((".", "~")) else parse_reference(name)
    if reference is None or reference.repo_id.endswith(".gguf"):
        raise StartupError(f"{name}: no such file or folder, and not a name on the hub")
    return hub.fetch(reference, revision, with_weights=with_weights, with_code=with_code)


def _is_only_adapter(path: Path) -> bool:
    """An adapter's folder may have the base's config.json beside it, but not its weights."""
    return peft.is_adapter(path) and not weight_files(path, [f.name for f in path.iterdir()])[1]
