"""One local checkpoint, whatever its format: what it is and where its weights lie."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from headrace.checkpoint import gguf_config
from headrace.checkpoint.gguf import GGUFFile
from headrace.checkpoint.model_config import normalize
from headrace.checkpoint.multimodal import TextPart, find_text_part, text_config
from headrace.checkpoint.peft import LoraAdapter, open_adapter
from headrace.checkpoint.quantization_config import find_quantization
from headrace.checkpoint.safetensors import read_json
from headrace.checkpoint.tensor_names import tensor_names
from headrace.checkpoint.weight_files import WeightKind, gguf_files, weight_files
from headrace.errors import CheckpointError

OUTPUT_HEADS = {"lm_head.weight", "output.weight", "embed_out.weight"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A description; no weights are read."""

    path: Path
    """The folder, or the GGUF file."""
    kind: Literal["safetensors", "pytorch", "gguf"]
    config: dict[str, Any]
    """config.json in the normal form of `model_config`."""
    generation_config: dict[str, Any] = field(default_factory=dict)
    eos_token_ids: tuple[int, ...] = ()
    """Of generation_config.json, else config.json; empty leaves it to the tokenizer."""
    weight_files: tuple[Path, ...] = ()
    """Empty in a folder that has a config.json only (enough for dummy weights)."""
    gguf: GGUFFile | None = None
    rope_override: dict[str, Any] | None = None
    """The rope_scaling that flags have put into `config`."""
    wrapper: str | None = None
    """The multimodal architecture whose text model `config` describes."""
    text_part: TextPart | None = None
    """Where the tensors of such a text model lie, if not under their usual names."""
    adapter: LoraAdapter | None = None
    """Changes the weights, and may bring a tokenizer and a chat template of its own."""

    @property
    def text_folder(self) -> Path:
        """Where tokenizer and chat template lie, unless they are in the GGUF file."""
        own = self.adapter.folder if self.adapter else self.path
        return own if any(own.glob("tokenizer.*")) else self.path


def with_rope_scaling(
    checkpoint: Checkpoint, rope_type: str | None, factor: float | None
) -> Checkpoint:
    """The checkpoint with another RoPE scaling; as it is when neither is given.

    As in TGI, a factor alone means linear scaling, and a type alone a factor of 1.
    """
    if rope_type is None and factor is None:
        return checkpoint
    scaling = {"rope_type": rope_type or "linear", "factor": 1.0 if factor is None else factor}
    config = {**checkpoint.config, "rope_scaling": scaling}
    return replace(checkpoint, config=config, rope_override=scaling)


def open_checkpoint(path: Path, adapter: Path | None = None) -> Checkpoint:
    """Describe a folder (safetensors, .bin, or exactly one .gguf) or a .gguf file.

    `adapter`: folder of a LoRA adapter to merge into it. Raises CheckpointError when there is
    nothing usable, or something is inconsistent.
    """
    checkpoint = _open_model(path)
    if adapter is None:
        return checkpoint
    lora = open_adapter(adapter)
    config = checkpoint.config
    if lora.replaces(OUTPUT_HEADS):
        config = {**config, "tie_word_embeddings": False}
    return replace(checkpoint, adapter=lora, config=config)


def _open_model(path: Path) -> Checkpoint:
    if path.is_file():
        return _open_gguf(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder")
    names = [file.name for file in path.iterdir()]
    kind, files = weight_files(path, names)
    if not files and any(name.endswith(".gguf") for name in names):
        return _open_gguf(path / gguf_files(names, None, str(path))[0])
    if not (path / "config.json").exists():
        raise CheckpointError(f"{path}: neither config.json nor a .gguf file")
    return _open_folder(path, kind, tuple(path / name for name in files))


def _open_folder(folder: Path, kind: WeightKind, files: tuple[Path, ...]) -> Checkpoint:
    source, names = folder / "config.json", tensor_names(files)
    whole = read_json(source)
    text = text_config(whole)
    is_wrapped = text is not whole
    part = find_text_part(names) if is_wrapped else None
    heads = {f"{part.head}.weight"} if part else OUTPUT_HEADS
    config = normalize(text, str(source), bool(heads & names) or not files)
    config["quantization_config"] = find_quantization(config, folder)
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.exists() else {}
    eos = generation.get("eos_token_id")
    return Checkpoint(
        path=folder,
        kind=kind,
        config=config,
        generation_config=generation,
        eos_token_ids=_ids(config.get("eos_token_id") if eos is None else eos, folder),
        weight_files=files,
        wrapper=whole["architectures"][0] if is_wrapped else None,
        text_part=part,
    )


def _open_gguf(path: Path) -> Checkpoint:
    file = GGUFFile(path)
    config = normalize(gguf_config.config_of(file), str(path), "output.weight" in file.tensors)
    return Checkpoint(
        path=path,
        kind="gguf",
        config=config,
        eos_token_ids=gguf_config.end_token_ids(file),
        weight_files=tuple(file.paths),
        gguf=file,
    )


def _ids(value: Any, folder: Path) -> tuple[int, ...]:
    """One id, several or none."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token_id, int) for token_id in ids):
        raise CheckpointError(f"{folder}: eos_token_id must be one integer or several: {value!r}")
    return tuple(ids)
