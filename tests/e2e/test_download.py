"""`headrace download` and `headrace serve` of a hub id, against a hub on loopback."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import peft
import pytest
import tokenizers
import torch
import transformers

from tests.checkpoint.fake_hub import FakeHub, Repository, running_hub
from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A tiny base in .bin shards and a LoRA adapter for it; and the two merged by `peft`."""
    folder = tmp_path_factory.mktemp("reference")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config)
    base.name_or_path = "org/base"
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder / "base")
    state = list(base.state_dict().items())
    shards = {"1.bin": dict(state[:9]), "2.bin": dict(state[9:])}
    names = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    index = {"weight_map": names}
    (folder / "base" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for shard, tensors in shards.items():
        torch.save(tensors, folder / "base" / shard)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *sorted(alphabet)])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.save(str(folder / "base" / "tokenizer.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(
            base, peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
        )
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 0, 0.3)
        model.save_pretrained(folder / "adapter")
        return folder, model.merge_and_unload()


@pytest.fixture
def hub(reference: tuple[Path, torch.nn.Module]) -> Iterator[FakeHub]:
    folder, _ = reference
    with running_hub() as fake:
        for name in ("base", "adapter"):
            fake.repositories[f"org/{name}"] = Repository(files(folder / name))
        yield fake


def environment(hub: FakeHub, cache: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HUGGINGFACE_HUB_CACHE": str(cache)}


def download(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", "download", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_download_prints_where_the_model_is(hub: FakeHub, tmp_path: Path) -> None:
    done = download("org/base", environment=environment(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path)
    original = hub.repositories["org/base"].files
    assert files(folder).items() >= original.items()
    converted = files(folder).keys() - original.keys()
    assert "model.safetensors.index.json" in converted and len(converted) == 3
    assert "downloaded" in done.stderr and "B/s" in done.stderr
    offline = environment(hub, tmp_path) | {"HF_HUB_OFFLINE": "1", "MODEL_ID": "org/base"}
    assert download(environment=offline).stdout.strip() == str(folder)


def test_a_gated_model_says_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["org/base"].is_gated = True
    denied = download("org/base", environment=environment(hub, tmp_path))
    assert denied.returncode == 1 and denied.stdout == ""
    assert (
        f"Error: org/base: the model is gated: ask for access at {hub.url}/org/base"
        in denied.stderr
    )
    assert "HF_TOKEN" in denied.stderr and "Traceback" not in denied.stderr
    allowed = environment(hub, tmp_path) | {"HF_TOKEN": "good"}
    assert download("org/base", environment=allowed).returncode == 0


def test_an_adapter_is_served_merged(
    hub: FakeHub, tmp_path: Path, reference: tuple[Path, torch.nn.Module]
) -> None:
    arguments = [
        "--model-id",
        "org/adapter",
        "--max-total-tokens",
        "64",
        "--kv-cache-memory",
        "4000000",
    ]
    with ServerProcess(*arguments, environment=environment(hub, tmp_path)) as server:
        server.wait_ready()
        body = {"inputs": "Hello", "parameters": {"max_new_tokens": 12, "details": True}}
        answer = httpx.post(f"{server.url}/generate", json=body, timeout=30).json()
    prompt = tokenizers.Tokenizer.from_file(str(reference[0] / "base/tokenizer.json")).encode(
        "Hello"
    )
    model = reference[1]
    expected = model.generate(
        torch.tensor([prompt.ids]), max_new_tokens=12, do_sample=False, pad_token_id=0
    )[0, len(prompt.ids) :].tolist()
    assert [token["id"] for token in answer["details"]["tokens"]] == expected
