"""What is done already, in the output folder: one file per layer, so that a killed run goes on.

A file gets its name when all of it is on the disk; one without is never read. plan.json says what
the layers were made of and how, and layers of another plan are not mixed in.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from headrace.calibration.recipe import Recipe
from headrace.calibration.windows import Windows
from headrace.checkpoint.checkpoint import Checkpoint
from headrace.checkpoint.safetensors import read_json
from headrace.errors import StartupError

FOLDER = "unfinished"


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """The file appears under its name when it is complete and on the disk."""
    beside = path.with_name(path.name + ".partial")
    write(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def plan(checkpoint: Checkpoint, recipe: Recipe, windows: Windows) -> dict[str, str]:
    """What must be equal for the layers of one run to serve another."""
    files = [f"{file.name}: {file.stat().st_size}" for file in checkpoint.weight_files]
    tokens = json.dumps(windows.calibration).encode()
    return {
        "model": f"{checkpoint.path.resolve()} ({', '.join(files)})",
        "settings": repr(recipe),
        "calibration text": hashlib.sha256(tokens).hexdigest(),
    }


class FinishedLayers:
    """The folder of finished layers within an output folder."""

    def __init__(self, output: Path, plan: dict[str, str]) -> None:
        """Raises StartupError if `output` holds anything but layers of the same plan."""
        self.folder = output / FOLDER
        found = sorted(path.name for path in output.iterdir()) if output.exists() else []
        if (output / "config.json").exists() or (found and FOLDER not in found):
            raise StartupError(f"{output} is not empty: it holds {', '.join(found[:3])}")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        if path.exists() and (before := read_json(path)) != plan:
            changed = [key for key in plan if before.get(key) != plan[key]]
            raise StartupError(
                f"{output} holds a run with another {' and another '.join(changed)}; "
                "give the same to go on with it, or another folder, or delete it"
            )
        write_whole(path, lambda beside: beside.write_text(json.dumps(plan)))

    def has(self, layer: int) -> bool:
        return self.path(layer).exists()

    def save(self, layer: int, tensors: dict[str, Tensor]) -> None:
        write_whole(self.path(layer), lambda beside: save_file(tensors, beside))

    def files(self, num_layers: int) -> list[Path]:
        """Of all layers, in order."""
        return [self.path(layer) for layer in range(num_layers)]

    def delete(self) -> None:
        shutil.rmtree(self.folder)

    def path(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:05}.safetensors"
