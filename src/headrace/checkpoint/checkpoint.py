"""One local checkpoint, whatever its format: what it is and where its weights lie."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from headrace.checkpoint import gguf_config, safetensors
from headrace.checkpoint.gguf import GGUFFile
from headrace.checkpoint.model_config import normalize
from headrace.checkpoint.quantization_config import find_quantization
from headrace.errors import CheckpointError

OUTPUT_HEADS = {"lm_head.weight", "output.weight", "embed_out.weight"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A description; no weights are read."""

    path: Path
    """The folder, or the GGUF file."""
    kind: Literal["safetensors", "gguf"]
    config: dict[str, Any]
    """config.json in the normal form of `model_config`."""
    generation_config: dict[str, Any] = field(default_factory=dict)
    eos_token_ids: tuple[int, ...] = ()
    """Of generation_config.json, else config.json; empty leaves it to the tokenizer."""
    weight_files: tuple[Path, ...] = ()
    """Empty in a folder that has a config.json only (enough for dummy weights)."""
    gguf: GGUFFile | None = None


def with_rope_scaling(
    checkpoint: Checkpoint, rope_type: str | None, factor: float | None
) -> Checkpoint:
    """The checkpoint with another RoPE scaling; as it is when neither is given.

    As in TGI, a factor alone means linear scaling, and a type alone a factor of 1.
    """
    if rope_type is None and factor is None:
        return checkpoint
    scaling = {"rope_type": rope_type or "linear", "factor": 1.0 if factor is None else factor}
    return replace(checkpoint, config={**checkpoint.config, "rope_scaling": scaling})


def open_checkpoint(path: Path) -> Checkpoint:
    """Describe a folder (safetensors, or exactly one .gguf) or a .gguf file.

    Raises CheckpointError when there is nothing usable, or something is inconsistent.
    """
    if path.is_file():
        return _open_gguf(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder")
    files = safetensors.weight_files(path)
    gguf_files = sorted(path.glob("*.gguf"))
    if gguf_files and not files:
        if len(gguf_files) > 1:
            names = ", ".join(file.name for file in gguf_files)
            raise CheckpointError(f"{path}: several GGUF files, name one of them: {names}")
        return _open_gguf(gguf_files[0])
    if not (path / "config.json").exists():
        raise CheckpointError(f"{path}: neither config.json nor a .gguf file")
    if not files and any(path.glob("*.bin")):
        raise CheckpointError(f"{path}: has PyTorch .bin weights only, safetensors are needed")
    return _open_safetensors(path, files)


def _open_safetensors(folder: Path, files: tuple[Path, ...]) -> Checkpoint:
    source = folder / "config.json"
    has_output_head = bool(OUTPUT_HEADS & safetensors.tensor_names(files)) or not files
    config = normalize(safetensors.read_json(source), str(source), has_output_head)
    config["quantization_config"] = find_quantization(config, folder)
    generation_path = folder / "generation_config.json"
    generation = safetensors.read_json(generation_path) if generation_path.exists() else {}
    eos = generation.get("eos_token_id")
    return Checkpoint(
        path=folder,
        kind="safetensors",
        config=config,
        generation_config=generation,
        eos_token_ids=_ids(config.get("eos_token_id") if eos is None else eos, folder),
        weight_files=files,
    )


def _open_gguf(path: Path) -> Checkpoint:
    file = GGUFFile(path)
    config = normalize(gguf_config.config_of(file), str(path), "output.weight" in file.tensors)
    return Checkpoint(
        path=path,
        kind="gguf",
        config=config,
        eos_token_ids=gguf_config.end_token_ids(file),
        weight_files=(path,),
        gguf=file,
    )


def _ids(value: Any, folder: Path) -> tuple[int, ...]:
    """One id, several or none."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token_id, int) for token_id in ids):
        raise CheckpointError(f"{folder}: eos_token_id must be one integer or several: {value!r}")
    return tuple(ids)
