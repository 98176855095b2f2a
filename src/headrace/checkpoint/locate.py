"""From what a user calls a model to local paths, downloading from the hub when need be."""

from dataclasses import dataclass
from pathlib import Path

from headrace.checkpoint import peft
from headrace.checkpoint.embedded import embedded_model
from headrace.checkpoint.hub import Hub, parse_reference
from headrace.checkpoint.speculator import read_speculator
from headrace.checkpoint.weight_files import weight_files
from headrace.errors import StartupError

SELF = "self"
"""In place of a draft model: the model itself, with narrower weights."""


@dataclass(frozen=True)
class Located:
    """Where a model lies."""

    path: Path
    """A folder or a .gguf file."""
    adapter: Path | None = None
    """Folder of a LoRA adapter to merge into it."""
    drafter: Path | None = None
    """Where a draft model, or heads that draft, lie."""


def locate(
    model_id: str | None,
    hub: Hub,
    revision: str | None = None,
    draft_model_id: str | None = None,
    *,
    with_weights: bool = True,
    with_code: bool = False,
) -> Located:
    """Where a model lies, after downloading it if need be.

    None is the embedded model, an existing path is itself, all else is a hub reference. If it is
    an adapter, or heads that draft, the model that they belong to is located too, and so is what
    `draft_model_id` names. Raises StartupError with the next step.
    """

    def find(name: str, revision: str | None) -> Path:
        return _find(name, hub, revision, with_weights=with_weights, with_code=with_code)

    drafter = None if draft_model_id in (None, SELF) else find(draft_model_id, None)
    if model_id is None:
        return Located(embedded_model(), drafter=drafter)
    path = find(model_id, revision)
    if (heads := read_speculator(path)) is not None:
        if draft_model_id is not None:
            raise StartupError(f"--model-id {model_id}: is a drafter, beside --draft-model-id")
        if heads.base_model_name_or_path is None:
            raise StartupError(
                f"{path}/config.json: base_model_name_or_path does not say for which model these "
                "heads are; give that as --model-id, and these as --draft-model-id"
            )
        return Located(find(heads.base_model_name_or_path, None), drafter=path)
    if not _is_only_adapter(path):
        return Located(path, drafter=drafter)
    return Located(find(peft.base_model(path), None), adapter=path, drafter=drafter)


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
