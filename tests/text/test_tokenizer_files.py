"""Folders without a tokenizer.json. Oracles: transformers' classes, and sentencepiece."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import CheckpointError
from headrace.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.test_sentencepiece import train

CONFIG = {
    "bos_token": {"content": "<|start|>", "__type": "AddedToken"},
    "eos_token": "<|end|>",
    "added_tokens_decoder": {
        "400": {"content": "<|start|>", "special": True},
        "401": {"content": "<|end|>", "special": True},
        "402": {"content": "plain", "special": False},
    },
}


def folder(path: Path, **config: Any) -> Path:
    (path / "tokenizer_config.json").write_text(json.dumps(CONFIG | config))
    return path


def load(path: Path) -> Tokenizer:
    return load_tokenizer(Checkpoint(path=path, kind="safetensors", config={}))


@pytest.fixture(params=["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer"])
def byte_level_folder(request: Any, byte_level_backend: Any, tmp_path: Path) -> Path:
    byte_level_backend.model.save(str(tmp_path))
    return folder(tmp_path, tokenizer_class=request.param)


def test_vocabulary_and_merges(byte_level_folder: Path, corpus: list[str]) -> None:
    import transformers

    config = json.loads((byte_level_folder / "tokenizer_config.json").read_text())
    reference = getattr(transformers, config["tokenizer_class"]).from_pretrained(byte_level_folder)
    tokenizer = load(byte_level_folder)
    assert (tokenizer.bos_token, tokenizer.eos_token_ids) == ("<|start|>", (401,))
    # transformers' classes add a token <|endoftext|> that the files do not have.
    for text in ["<|start|>x<|end|>plain y", *(t for t in corpus if "endoftext" not in t)]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == reference.encode(text, add_special_tokens=False), text


def test_older_checkpoints_name_special_tokens_elsewhere(
    byte_level_backend: Any, tmp_path: Path
) -> None:
    byte_level_backend.save(str(tmp_path / "tokenizer.json"))
    names = {"bos_token": {"content": "<s>"}, "eos_token": "a"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    assert (load(tmp_path).bos_token, load(tmp_path).eos_token) == ("<s>", "a")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    assert (load(tmp_path).bos_token, load(tmp_path).eos_token) == ("<s>", "</s>")


def test_ends_are_added_as_configured(byte_level_backend: Any, tmp_path: Path) -> None:
    byte_level_backend.model.save(str(tmp_path))
    options = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_eos_token": True}
    tokenizer = load(folder(tmp_path, **options))
    ids = tokenizer.encode("x").ids
    assert (ids[0], ids[-1]) == (400, 401)
    assert tokenizer.encode("x", add_special_tokens=False).ids == ids[1:-1]


def test_sentencepiece_begins_with_bos(tmp_path: Path) -> None:
    reference = train(tmp_path / "tokenizer.model", "llama")
    size = reference.vocab_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<extra>": size}))
    tokenizer = load(tmp_path)
    assert (tokenizer.bos_token, tokenizer.eos_token) == (None, None)
    text = "Hello world"
    assert tokenizer.encode(text).ids == [reference.bos_id(), *reference.encode(text)]
    assert tokenizer.token_id("<extra>") == size
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert load(tmp_path).encode(text).ids == reference.encode(text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tokenizer_class": "OddTokenizer"}, "tokenizer_class OddTokenizer.*AutoTokenizer"),
        (
            {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"9": {"content": "new"}}},
            "'new' has id 9, but its place is 400",
        ),
        ({"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"x": 1}}, "added tokens"),
    ],
)
def test_what_cannot_be_built_is_named(
    config: dict[str, Any], message: str, byte_level_backend: Any, tmp_path: Path
) -> None:
    byte_level_backend.model.save(str(tmp_path))
    with pytest.raises(CheckpointError, match=message):
        load(folder(tmp_path, **config))


def test_broken_vocabulary_is_named(tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("[")
    with pytest.raises(CheckpointError, match="vocab.json and merges.txt"):
        load(folder(tmp_path, tokenizer_class="GPT2Tokenizer"))


@pytest.fixture(scope="module")
def tiktoken_backend(byte_level_backend: Any) -> tokenizers.Tokenizer:
    """What transformers makes of a tiktoken file: a pattern of its own, then bytes."""
    backend = tokenizers.Tokenizer.from_str(byte_level_backend.to_str())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(
                tokenizers.Regex(r"\p{L}+|\p{N}{1,3}|[^\p{L}\p{N}]+"), "isolated"
            ),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return backend


@settings(max_examples=200)
@given(
    text=st.text(st.one_of(st.sampled_from("👩‍👧🇩🇪e\u0301日本 \n"), st.characters(codec="utf-8")))
)
def test_tiktoken_streams_whole_characters(tiktoken_backend: Any, text: str) -> None:
    tokenizer = Tokenizer(tiktoken_backend)
    detokenizer = tokenizer.detokenizer()
    pieces = [*map(detokenizer.feed, tokenizer.encode(text).ids), detokenizer.flush()]
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
