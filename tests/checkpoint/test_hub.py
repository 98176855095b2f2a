"""The real client against a hub on loopback (`fake_hub`), with the faults of real networks."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from headrace.checkpoint import download
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.hub import Hub, HubReference, parse_reference
from headrace.errors import StartupError
from tests.checkpoint.fake_hub import FakeHub, Repository
from tests.checkpoint.test_checkpoint import CONFIG

MODEL = HubReference("org/model")
SHARD = save({"lm_head.weight": np.arange(50_000, dtype=np.float32)})
OTHER_SHARD = save({"x": np.ones(50_000, np.float32)})
INDEX = {"weight_map": {"lm_head.weight": "model-1.safetensors", "x": "model-2.safetensors"}}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "model-1.safetensors": SHARD,
    "model-2.safetensors": OTHER_SHARD,
    "additional_chat_templates/tool_use.jinja": b"x",
}
UNNEEDED = {
    "pytorch_model.bin": b"0" * 100,
    "consolidated.safetensors": SHARD,
    "model.fp16.safetensors": SHARD,
    "original/params.json": b"{}",
    "onnx/model.onnx": b"0",
    "README.md": b"",
    "modeling.py": b"",
}


@pytest.fixture
def fake(hub: FakeHub) -> FakeHub:
    hub.repositories["org/model"] = Repository(FILES | UNNEEDED)
    return hub


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_is_needed_and_no_more(fake: FakeHub, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    hub = Hub(cache_dir=tmp_path, progress=lambda done, total: reports.append((done, total)))
    folder = hub.fetch(MODEL)
    assert names(folder) == set(FILES) == fake.fetched()
    assert all((folder / name).read_bytes() == content for name, content in FILES.items())
    assert open_checkpoint(folder).config["tie_word_embeddings"] is False
    weights = len(SHARD) + len(OTHER_SHARD)
    assert reports[-1] == (weights, weights)
    progress = [done for done, total in reports if total == weights]
    assert progress == sorted(progress)


def test_a_second_start_downloads_nothing(fake: FakeHub, tmp_path: Path) -> None:
    first = Hub(cache_dir=tmp_path).fetch(MODEL)
    fake.requests.clear()
    assert Hub(cache_dir=tmp_path).fetch(MODEL) == first
    assert fake.fetched() == set()


def test_a_newer_commit_shares_what_has_not_changed(fake: FakeHub, tmp_path: Path) -> None:
    first = Hub(cache_dir=tmp_path).fetch(MODEL)
    fake.requests.clear()
    fake.repositories["org/model"] = Repository(FILES | {"tokenizer.json": b'{"new": 1}'})
    second = Hub(cache_dir=tmp_path).fetch(MODEL)
    assert second != first and fake.fetched() == {"tokenizer.json"}


def test_description_only(fake: FakeHub, tmp_path: Path) -> None:
    hub = Hub(cache_dir=tmp_path)
    folder = hub.fetch(MODEL, with_weights=False, with_code=True)
    weights = {"model-1.safetensors", "model-2.safetensors"}
    assert names(folder) == set(FILES) - weights | {"modeling.py"}


def test_bin_where_there_are_no_safetensors(fake: FakeHub, tmp_path: Path) -> None:
    fake.repositories["org/model"] = Repository(
        {"config.json": b"{}", "pytorch_model.bin": b"1", "training_args.bin": b"2"}
    )
    assert names(Hub(cache_dir=tmp_path).fetch(MODEL)) == {"config.json", "pytorch_model.bin"}


@pytest.mark.parametrize(
    ("gguf", "expected"),
    [
        ("model.Q4_K_M.gguf", "model.Q4_K_M.gguf"),
        ("q4_k_m", "model.Q4_K_M.gguf"),
        ("big/model-Q8_0-00001-of-00002.gguf", "big/model-Q8_0-00001-of-00002.gguf"),
        ("Q8_0", "big/model-Q8_0-00001-of-00002.gguf"),
    ],
)
def test_gguf_by_name_or_quantization(
    gguf: str, expected: str, fake: FakeHub, tmp_path: Path
) -> None:
    fake.repositories["org/model"] = Repository(
        {
            "model.Q4_K_M.gguf": b"4",
            "model.Q4_K_S.gguf": b"5",
            "mmproj-f16.gguf": b"m",
            "big/model-Q8_0-00001-of-00002.gguf": b"8",
            "big/model-Q8_0-00002-of-00002.gguf": b"9",
        }
    )
    path = Hub(cache_dir=tmp_path).fetch(HubReference("org/model", gguf))
    assert str(path).endswith(expected) and path.is_file()
    assert len(fake.fetched()) == (2 if "8" in expected else 1)
    offline = Hub(cache_dir=tmp_path, offline=True)
    assert offline.fetch(HubReference("org/model", gguf)) == path
    with pytest.raises(StartupError, match=r"org/model: several GGUF.*Q4_K_M.gguf, .*Q4_K_S"):
        Hub(cache_dir=tmp_path).fetch(MODEL)
    with pytest.raises(StartupError, match="no GGUF file IQ1_S; there are: .*Q4_K_M"):
        Hub(cache_dir=tmp_path).fetch(HubReference("org/model", "IQ1_S"))


def test_names_that_leave_the_cache_are_not_files(fake: FakeHub, tmp_path: Path) -> None:
    victim = tmp_path / "victim.jinja"
    victim.write_text("keep me")
    climb = "additional_chat_templates/" + "../" * 5 + victim.name
    fake.repositories["org/model"].files[climb] = b"x"
    cache = tmp_path / "cache"
    assert climb not in names(Hub(cache_dir=cache).fetch(MODEL))
    assert victim.read_text() == "keep me" and fake.fetched() == set(FILES)


def test_revisions(fake: FakeHub, tmp_path: Path) -> None:
    fake.repositories["org/model"].revisions.add("refs/pr/2")
    folder = Hub(cache_dir=tmp_path).fetch(MODEL, "refs/pr/2")
    assert folder.name == fake.repositories["org/model"].commit
    assert Hub(cache_dir=tmp_path).fetch(MODEL, folder.name) == folder
    assert Hub(cache_dir=tmp_path, offline=True).fetch(MODEL, "refs/pr/2") == folder
    with pytest.raises(StartupError, match=f"no revision 'v9'; {fake.url}/org/model/tree/main"):
        Hub(cache_dir=tmp_path).fetch(MODEL, "v9")


@pytest.mark.parametrize("token", [None, "stranger"])
def test_gated_model_names_page_and_variable(
    token: str | None, fake: FakeHub, tmp_path: Path
) -> None:
    """Without a token (401), and with that of somebody who was not let in (403)."""
    fake.repositories["org/model"].is_gated = True
    with pytest.raises(StartupError, match=f"gated: .*{fake.url}/org/model.*HF_TOKEN"):
        Hub(cache_dir=tmp_path, token=token).fetch(MODEL)
    assert set(FILES) == names(Hub(cache_dir=tmp_path, token="good").fetch(MODEL))


def test_unknown_model_and_bad_token(fake: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=f"org/gone: not found at {fake.url}/org/gone.*HF_TOKEN"):
        Hub(cache_dir=tmp_path).fetch(HubReference("org/gone"))
    with pytest.raises(StartupError, match="refuses HF_TOKEN"):
        Hub(cache_dir=tmp_path, token="bad").fetch(MODEL)


def test_a_cut_connection_is_resumed(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    fake.cuts["model-1.safetensors"] = 100_000
    reports: list[tuple[int, int]] = []
    hub = Hub(cache_dir=tmp_path, progress=lambda done, total: reports.append((done, total)))
    folder = hub.fetch(MODEL)
    assert (folder / "model-1.safetensors").read_bytes() == SHARD
    (resumed,) = fake.ranges("model-1.safetensors")
    start = int(resumed.removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 100_000
    assert max(done for done, _ in reports) == len(SHARD) + len(OTHER_SHARD)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("corrupt", r"model-2\.safetensors arrived damaged .*start again"),
        ("truncated", "download failed.*should be of size"),
    ],
)
def test_a_damaged_file_is_not_believed(
    fault: str, message: str, fake: FakeHub, tmp_path: Path
) -> None:
    getattr(fake, fault).add("model-2.safetensors")
    with pytest.raises(StartupError, match=message):
        Hub(cache_dir=tmp_path).fetch(MODEL)
    blobs = [path.read_bytes() for path in tmp_path.rglob("blobs/*")]
    assert set(blobs) <= set(FILES.values())
    with pytest.raises(StartupError):
        Hub(cache_dir=tmp_path, offline=True).fetch(MODEL)
    getattr(fake, fault).clear()
    folder = Hub(cache_dir=tmp_path).fetch(MODEL)
    assert (folder / "model-2.safetensors").read_bytes() == OTHER_SHARD


def test_a_file_damaged_in_the_cache_is_fetched_again(fake: FakeHub, tmp_path: Path) -> None:
    folder = Hub(cache_dir=tmp_path).fetch(MODEL)
    os.truncate(folder / "model-1.safetensors", 5)
    assert Hub(cache_dir=tmp_path).fetch(MODEL) == folder
    assert (folder / "model-1.safetensors").read_bytes() == SHARD


def test_offline_and_outage_use_the_cache(
    fake: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Hub(cache_dir=tmp_path).fetch(MODEL)
    fake.requests.clear()
    assert Hub(cache_dir=tmp_path, offline=True).fetch(MODEL) == folder
    assert fake.requests == []
    fake.is_down = True
    with caplog.at_level(logging.WARNING):
        assert Hub(cache_dir=tmp_path).fetch(MODEL) == folder
    assert "503" in caplog.text and "trying its local copy" in caplog.text


def test_unreachable_and_not_cached(
    tmp_path: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartupError, match="not in the local cache, and HF_HUB_OFFLINE"):
        Hub(cache_dir=tmp_path, offline=True).fetch(MODEL)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StartupError, match="127.0.0.1:9/org/model cannot be reached"):
        Hub(cache_dir=tmp_path).fetch(MODEL)


def test_description_without_weights_is_no_model_offline(fake: FakeHub, tmp_path: Path) -> None:
    fake.repositories["org/model"] = Repository({"config.json": b"{}", "model.safetensors": SHARD})
    folder = Hub(cache_dir=tmp_path).fetch(MODEL, with_weights=False)
    offline = Hub(cache_dir=tmp_path, offline=True)
    assert offline.fetch(MODEL, with_weights=False) == folder
    with pytest.raises(StartupError, match="no weights.*headrace download org/model"):
        offline.fetch(MODEL)


def test_a_small_disk_is_noticed_before(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = len(SHARD)

    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(StartupError, match="--huggingface-hub-cache"):
        Hub(cache_dir=tmp_path).fetch(MODEL)
    assert "model-1.safetensors" not in fake.fetched()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", HubReference("gpt2")),
        ("org/model", MODEL),
        ("org/model:Q4_K_M", HubReference("org/model", "Q4_K_M")),
        ("org/model/a/b.gguf", HubReference("org/model", "a/b.gguf")),
        ("a/b/c", None),
        ("/a/b", None),
        ("org/model/b.bin", None),
        ("", None),
    ],
)
def test_references(name: str, expected: HubReference | None) -> None:
    assert parse_reference(name) == expected
