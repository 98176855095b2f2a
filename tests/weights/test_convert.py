""".bin files become safetensors with the same numbers, or stay what they are."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from headrace.checkpoint.weight_files import weight_files
from headrace.weights import convert as module
from headrace.weights.convert import convert
from headrace.weights.safetensors import SafetensorsWeights
from tests.weights.test_pytorch import Payload

TIED = torch.arange(6.0).view(2, 3)
STATE = {"a": TIED, "b": TIED.T, "c": TIED, "d": TIED[1], "e": torch.ones(2).half()}


def write(folder: Path) -> None:
    torch.save(STATE, folder / "pytorch_model-1.bin")
    torch.save({"f": torch.zeros(3, 0), "g": torch.tensor(5)}, folder / "pytorch_model-2.bin")


def files(folder: Path) -> tuple[str, tuple[str, ...]]:
    return weight_files(folder, [path.name for path in folder.iterdir()])


def test_the_numbers_are_the_same(tmp_path: Path) -> None:
    write(tmp_path)
    convert(tmp_path)
    kind, names = files(tmp_path)
    assert kind == "safetensors" and len(names) == 2
    weights = SafetensorsWeights([tmp_path / name for name in names])
    assert weights.names == {*STATE, "f", "g"}
    for name, tensor in STATE.items():
        assert torch.equal(weights.get(name), tensor)
        assert weights.get(name).dtype == tensor.dtype
    assert weights.get("f").shape == (3, 0) and int(weights.get("g")) == 5


def test_what_was_not_finished_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    before = files(tmp_path)

    def full_disk(tensors: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        assert files(tmp_path) == before  # where a power cut would leave it
        raise SafetensorError("no space left on device")

    monkeypatch.setattr(module, "save_file", full_disk)
    with pytest.raises(SafetensorError):
        convert(tmp_path)
    assert files(tmp_path) == before
    assert {path.suffix for path in tmp_path.iterdir()} == {".bin"}


def test_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Payload(tmp_path / "proof")}, tmp_path / "pytorch_model.bin")
    done = subprocess.run(
        [sys.executable, "-m", "headrace.weights.convert", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "holds more than tensors" in done.stderr
    assert not (tmp_path / "proof").exists()
