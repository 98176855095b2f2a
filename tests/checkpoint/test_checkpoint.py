"""Folders and files in the real on-disk formats, written by safetensors and gguf."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.errors import CheckpointError
from tests.checkpoint.gguf_files import write_gguf

CONFIG = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 128, "eos_token_id": 7,
}  # fmt: skip
ONE = np.zeros(1, np.float32)


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "config.json", CONFIG)
    return tmp_path


def test_single_file(folder: Path) -> None:
    save_file({"lm_head.weight": ONE}, folder / "model.safetensors")
    save_file({"x": ONE}, folder / "other.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.kind == "safetensors"
    assert checkpoint.weight_files == (folder / "model.safetensors",)
    assert checkpoint.eos_token_ids == (7,)
    assert checkpoint.config["tie_word_embeddings"] is False


def test_shards_come_from_the_index(folder: Path) -> None:
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    for name, file in shards.items():
        save_file({name: ONE}, folder / file)
    save_file({"a": ONE}, folder / "consolidated.safetensors")
    write(folder, "model.safetensors.index.json", {"weight_map": shards})
    checkpoint = open_checkpoint(folder)
    assert [file.name for file in checkpoint.weight_files] == sorted(shards.values())
    assert checkpoint.config["tie_word_embeddings"] is True


@pytest.mark.parametrize("is_legacy", [False, True])
def test_bin_files(folder: Path, is_legacy: bool) -> None:
    state = {"lm_head.weight": torch.ones(2), "x": torch.zeros(3)}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not is_legacy)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.kind, checkpoint.weight_files) == (
        "pytorch", (folder / "pytorch_model.bin",)
    )  # fmt: skip
    assert checkpoint.config["tie_word_embeddings"] is False
    save_file({"x": ONE}, folder / "model.safetensors")
    assert open_checkpoint(folder).kind == "safetensors"


def test_bin_shards_come_from_the_index(folder: Path) -> None:
    shards = {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}
    for name, file in shards.items():
        torch.save({name: torch.ones(1)}, folder / file)
    write(folder, "pytorch_model.bin.index.json", {"weight_map": shards})
    checkpoint = open_checkpoint(folder)
    assert [file.name for file in checkpoint.weight_files] == sorted(shards.values())
    assert checkpoint.config["tie_word_embeddings"] is True


def test_adapter_with_a_head_unties_the_base(folder: Path, tmp_path: Path) -> None:
    save_file({"x": ONE}, folder / "model.safetensors")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    lora = {"peft_type": "LORA", "base_model_name_or_path": "b", "r": 1, "lora_alpha": 1}
    write(adapter, "adapter_config.json", lora)
    save_file({"base_model.model.x.lora_A.weight": ONE}, adapter / "adapter_model.safetensors")
    assert open_checkpoint(folder, adapter).config["tie_word_embeddings"] is True
    head = {"base_model.model.lm_head.weight": ONE}
    save_file(head, adapter / "adapter_model.safetensors")
    checkpoint = open_checkpoint(folder, adapter)
    assert checkpoint.config["tie_word_embeddings"] is False
    assert checkpoint.text_folder == folder
    write(adapter, "tokenizer.json", {})
    assert checkpoint.text_folder == adapter


def test_generation_config_decides_about_the_end(folder: Path) -> None:
    write(folder, "generation_config.json", {"eos_token_id": [1, 2], "top_p": 0.5})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.eos_token_ids == (1, 2)
    assert checkpoint.generation_config["top_p"] == 0.5
    assert checkpoint.weight_files == ()


def test_embedded_model() -> None:
    checkpoint = open_checkpoint(embedded_model())
    assert checkpoint.kind == "gguf" and checkpoint.gguf is not None
    assert checkpoint.config["tie_word_embeddings"] is True
    assert checkpoint.eos_token_ids == (2,)


def test_folder_with_one_gguf(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tensors={"output.weight": ONE})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.path == path
    assert checkpoint.config["tie_word_embeddings"] is False
    write_gguf(tmp_path / "second.gguf")
    with pytest.raises(CheckpointError, match="several GGUF files.*model.gguf, second.gguf"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither config.json nor a .gguf"),
        ({"config.json": "{", "model.safetensors": ""}, "truncated"),
        ({"config.json": "{"}, "config.json: cannot be read as JSON"),
        ({"config.json": "[" * 100_000}, "cannot be read as JSON"),
        ({"config.json": "[]"}, "must be a JSON object"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "bin: not a usable PyTorch file"),
        ({"model.safetensors.index.json": "{}"}, "weight_map"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "../a"}}'}, "'../a' is not"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "b"}}'}, "b is missing"),
        ({"config.json": json.dumps(CONFIG | {"eos_token_id": "x"})}, "eos_token_id"),
        ({"config.json": "{}", "model.safetensors": "\xff" * 9}, "not a safetensors file"),
        ({"config.json": "{}", "model.safetensors": "\x02" + "\0" * 7 + "[]"}, "not an object"),
        ({"config.json": "{}", "model.safetensors": "\x02" + "\0" * 7 + "{{"}, "broken"),
    ],
)
def test_unusable_folders_are_named(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such file"):
        open_checkpoint(tmp_path / "nowhere")
