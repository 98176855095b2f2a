"""Which files hold a model's weights, among the names in a folder or in a hub repository.

Reads indexes only, never tensors.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Literal

from headrace.checkpoint.safetensors import read_json
from headrace.errors import CheckpointError

WeightKind = Literal["safetensors", "pytorch"]


@dataclass(frozen=True)
class WeightFormat:
    """How transformers names the files of one format."""

    kind: WeightKind
    index: str
    single: str
    pattern: str
    """Of what counts where there is neither an index nor a single file."""


FORMATS = (
    WeightFormat(
        "safetensors", "model.safetensors.index.json", "model.safetensors", "*.safetensors"
    ),
    WeightFormat(
        "pytorch", "pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model*.bin"
    ),
)
"""The best first: reading .bin files is slower, and they are code that must not be run."""

CONVERTED = "converted"
"""How files begin that `weights.convert` has made: they count with their index only."""
OTHER_CONTENTS = ("consolidated*", "adapter_model*", f"{CONVERTED}-*")
"""The same weights in another layout, adapters, and what may not be whole."""

SPLIT = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")
"""The number of one part of a GGUF model in several files."""


def weight_files(folder: Path, names: Collection[str]) -> tuple[WeightKind, tuple[str, ...]]:
    """The preferred format among `names` and its files; ("safetensors", ()) if there are none.

    The files are those of the index, which lies in `folder`, else the single file, else all that
    look like weights. Raises CheckpointError when the index names a file that is not there.
    """
    for form in FORMATS:
        if files := _files_of(form, folder, names):
            return form.kind, files
    return FORMATS[0].kind, ()


def _files_of(form: WeightFormat, folder: Path, names: Collection[str]) -> tuple[str, ...]:
    if form.index in names:
        return _indexed(folder / form.index, names)
    if form.single in names:
        return (form.single,)
    fitting = [name for name in names if fnmatch(name, form.pattern) and "/" not in name]
    others = {name for name in fitting for other in OTHER_CONTENTS if fnmatch(name, other)}
    return tuple(sorted({*fitting} - others))


def weight_map(index: Path) -> dict[str, str]:
    """File name by tensor name. Raises CheckpointError for anything else."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{index}: weight_map must be an object with at least one tensor")
    return {str(tensor): str(name) for tensor, name in files.items()}


def _indexed(index: Path, names: Collection[str]) -> tuple[str, ...]:
    files = sorted(set(weight_map(index).values()))
    for name in files:
        if PurePosixPath(name).name != name:
            raise CheckpointError(f"{index}: {name!r} is not the name of a file in this folder")
        if name not in names:
            raise CheckpointError(
                f"{index.parent / name} is missing, although {index.name} names it"
            )
    return tuple(files)


def gguf_files(names: Collection[str], wanted: str | None, source: str) -> tuple[str, ...]:
    """The file (or the parts, in order) of one GGUF model among `names`.

    `wanted`: its path, or its quantization ("Q4_K_M"); None where there is only one. Raises
    CheckpointError when that fits none or several models, naming them and `source`.
    """
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.endswith(".gguf") and not PurePosixPath(name).name.startswith("mmproj"):
            models.setdefault(SPLIT.sub("", name), []).append(name)
    fitting = [name for name in models if wanted is None or _fits(name, models[name], wanted)]
    if len(fitting) == 1:
        return tuple(models[fitting[0]])
    listed = ", ".join(fitting or models) or "none"
    if not fitting:
        raise CheckpointError(f"{source}: no GGUF file {wanted}; there are: {listed}")
    raise CheckpointError(f"{source}: several GGUF files, name one of them: {listed}")


def _fits(model: str, parts: list[str], wanted: str) -> bool:
    if wanted.endswith(".gguf"):
        return wanted == model or wanted in parts
    quantization = rf"(^|[-._/]){re.escape(wanted)}([-._/]|$)"
    return re.search(quantization, model, re.IGNORECASE) is not None
