"""The finished folder: shards and their index, the tokenizer's files, config.json last of all.

A folder without a config.json is not a checkpoint, so nobody takes an unfinished one for one.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from headrace.calibration.finished import write_whole
from headrace.checkpoint.checkpoint import Checkpoint
from headrace.checkpoint.safetensors import read_json
from headrace.weights import Weights
from headrace.weights.safetensors import SafetensorsWeights

SHARD_BYTES = 5_000_000_000
COPIED = (".json", ".jinja", ".model", ".txt", ".py")
"""What a model has beside weights: tokenizer, generation config, template, licence, code."""
REPLACED = ("config.json", "quantize_config.json", "quant_config.json")

Entry = tuple[str, Weights]
"""A tensor's name and where it is."""


def write_checkpoint(
    source: Checkpoint,
    kept: Sequence[Entry],
    layers: Sequence[Path],
    quantization_config: dict[str, Any],
    output: Path,
) -> None:
    """`kept`: the tensors that stay as they are. `layers`: files with those that are new."""
    new = SafetensorsWeights(layers)
    entries = [*kept, *((name, new) for name in sorted(new.names))]
    shards = list(_shards(entries))
    files = [_shard_name(i, len(shards)) for i in range(len(shards))]
    for file, names in zip(files, shards, strict=True):
        tensors = {name: weights.get(name).contiguous() for name, weights in names}
        _save(output / file, tensors)
    if len(files) > 1:
        _write_index(output, files, shards)
    for path in source.path.iterdir():
        is_index = path.name.endswith(".index.json")
        if path.suffix in COPIED and path.name not in REPLACED and not is_index:
            shutil.copyfile(path, output / path.name)
    config = read_json(source.path / "config.json") | {"quantization_config": quantization_config}
    _write_json(output / "config.json", config)


def _shards(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Runs of tensors of at most SHARD_BYTES, one tensor at least."""
    shard: list[Entry] = []
    size = 0
    for name, weights in entries:
        nbytes = weights.get(name).nbytes
        if shard and size + nbytes > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append((name, weights))
        size += nbytes
    yield shard


def _shard_name(number: int, count: int) -> str:
    if count == 1:
        return "model.safetensors"
    return f"model-{number + 1:05}-of-{count:05}.safetensors"


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    write_whole(path, lambda beside: save_file(tensors, beside, metadata={"format": "pt"}))


def _write_index(output: Path, files: Sequence[str], shards: Sequence[Sequence[Entry]]) -> None:
    weight_map = {
        name: file for file, names in zip(files, shards, strict=True) for name, _ in names
    }
    total = sum(weights.get(name).nbytes for names in shards for name, weights in names)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(output / "model.safetensors.index.json", index)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))
