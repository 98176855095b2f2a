"""Rewrites a folder's .bin weights as safetensors beside them: no pickles, and read lazily.

To be run as a module: who downloads models has no torch in its process.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from headrace.checkpoint.weight_files import CONVERTED, weight_files
from headrace.errors import CheckpointError
from headrace.weights.pytorch import PytorchWeights

INDEX = "model.safetensors.index.json"


def convert(folder: Path) -> None:
    """One shard for each .bin file. Nobody takes them for a model before the index, which comes
    last, is there. Raises CheckpointError for files that hold more than tensors or are damaged;
    OSError or SafetensorError where they cannot be written, and leaves none then."""
    _, files = weight_files(folder, [path.name for path in folder.iterdir()])
    shards: dict[str, str] = {}
    try:
        for number, file in enumerate(files, 1):
            shard = f"{CONVERTED}-{number:05}-of-{len(files):05}.safetensors"
            weights = PytorchWeights([folder / file])
            tensors = _apart({name: weights.get(name) for name in sorted(weights.names)})
            save_file(tensors, folder / shard, metadata={"format": "pt"})
            shards |= dict.fromkeys(tensors, shard)
        beside = folder / f"{INDEX}.part"
        beside.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
        beside.replace(folder / INDEX)
    except BaseException:
        for path in folder.glob(f"{CONVERTED}-*"):
            path.unlink()
        raise


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers, no two in the same memory, as the format wants it."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        is_shared = storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes
        seen.add(storage.data_ptr())
        tensor = tensor.contiguous()
        apart[name] = tensor.clone() if is_shared else tensor
    return apart


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]))
    except (CheckpointError, OSError, SafetensorError) as reason:
        sys.exit(str(reason))
