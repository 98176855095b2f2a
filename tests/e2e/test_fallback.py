"""A server whose model is not native."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.e2e.server import ServerProcess
from tests.models.checkpoints import make_checkpoint
from tests.models.transformers.checkpoints import FALLBACK
from tests.models.transformers.example import install, make_example

pytestmark = pytest.mark.e2e

PROMPT = "the wheel turns"


def make_tokenizer(folder: Path) -> list[int]:
    """Each byte is a token, as far as 199 go; returns the prompt's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:199]
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
    return list(tokenizer.encode(PROMPT).ids)


def expected_tokens(model: Any, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        with torch.inference_mode():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def generated_tokens(server: ServerProcess, count: int) -> list[int]:
    parameters = {"max_new_tokens": count, "details": True, "ignore_eos": True}
    response = httpx.post(
        f"{server.url}/generate", json={"inputs": PROMPT, "parameters": parameters}, timeout=60
    )
    assert response.status_code == 200, response.text
    return [token["id"] for token in response.json()["details"]["tokens"]]


def test_a_model_of_transformers_answers(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path, "FlexOlmoForCausalLM", FALLBACK["FlexOlmoForCausalLM"])
    prompt = make_tokenizer(tmp_path)
    with ServerProcess("--model-id", str(tmp_path), "--kv-cache-dtype", "float32") as server:
        server.wait_ready()
        assert "FlexOlmoForCausalLM runs on transformers' code" in server.output
        assert generated_tokens(server, 12) == expected_tokens(model, prompt, 12)
        # The second request finds its prompt's blocks in the prefix cache.
        assert generated_tokens(server, 12) == expected_tokens(model, prompt, 12)


def test_a_model_of_an_installed_package_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    model = make_example(tmp_path / "checkpoint")
    prompt = make_tokenizer(tmp_path / "checkpoint")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    arguments = ("--model-id", str(tmp_path / "checkpoint"), "--kv-cache-dtype", "float32")
    with ServerProcess(*arguments, environment={"PYTHONPATH": path}) as server:
        server.wait_ready()
        assert generated_tokens(server, 12) == expected_tokens(model, prompt, 12)


def test_a_recurrent_model_ends_in_one_line(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "MambaForCausalLM", {})
    make_tokenizer(tmp_path)
    with ServerProcess("--model-id", str(tmp_path)) as server:
        assert server.process.wait(60) == 1
        last = server.output.strip().splitlines()[-1]
        assert last.startswith("Error: MambaForCausalLM") and "recurrent state" in last
        assert "Traceback" not in server.output
