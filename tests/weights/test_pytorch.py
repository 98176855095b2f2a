"""Reading .bin files: as torch wrote them, and never what is not a tensor."""

from pathlib import Path

import pytest
import torch

from headrace.errors import CheckpointError
from headrace.weights.pytorch import PytorchWeights


class Payload:
    """What a pickle can do: call anything when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("is_legacy", [False, True])
def test_tensors_of_all_shards(tmp_path: Path, is_legacy: bool) -> None:
    new = not is_legacy
    tied = torch.arange(6.0).view(2, 3)
    torch.save({"a": tied, "b": tied.T}, tmp_path / "1.bin", _use_new_zipfile_serialization=new)
    torch.save({"c": torch.ones(2).half()}, tmp_path / "2.bin", _use_new_zipfile_serialization=new)
    weights = PytorchWeights([tmp_path / "1.bin", tmp_path / "2.bin"])
    assert weights.names == {"a", "b", "c"} and weights.has("c") and not weights.has("d")
    assert torch.equal(weights.get("a"), tied) and torch.equal(weights.get("b"), tied.T)
    assert weights.get("c").dtype == torch.float16
    with pytest.raises(CheckpointError, match="tensor d is in none"):
        weights.get("d")


@pytest.mark.parametrize("is_legacy", [False, True])
def test_code_is_not_run(tmp_path: Path, is_legacy: bool) -> None:
    proof, path = tmp_path / "proof", tmp_path / "1.bin"
    new = not is_legacy
    torch.save({"a": Payload(proof)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match="1.bin: is refused, it holds more than tensors"):
        PytorchWeights([path])
    assert not proof.exists()


@pytest.mark.parametrize("content", [[1], {"a": 1}])
def test_other_objects_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "1.bin")
    with pytest.raises(CheckpointError, match="tensors by name and nothing else"):
        PytorchWeights([tmp_path / "1.bin"])


@pytest.mark.parametrize("kept", [0, 3, 40, -200, -3])
@pytest.mark.parametrize("is_legacy", [False, True])
def test_damaged_file_is_named(kept: int, is_legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "1.bin"
    content = {"a": torch.ones(100)}
    torch.save(content, path, _use_new_zipfile_serialization=not is_legacy)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="1.bin"):
        PytorchWeights([path])
