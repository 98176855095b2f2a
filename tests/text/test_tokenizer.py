"""Oracle: the tokenizers library on the same tokenizer.json, and transformers' GGUF conversion."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import CheckpointError, ValidationError
from headrace.text.tokenizer import Tokenizer, load_tokenizer


def folder(path: Path, backend: Any, **config: Any) -> Checkpoint:
    backend.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return Checkpoint(path=path, kind="safetensors", config={})


def test_tokenizer_json(byte_level_backend: Any, corpus: list[str], tmp_path: Path) -> None:
    checkpoint = folder(
        tmp_path, byte_level_backend, eos_token="</s>", bos_token={"content": "<s>"}
    )
    tokenizer = load_tokenizer(checkpoint)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.eos_token_ids == (1,)
    assert tokenizer.special_ids == {0, 1}
    assert tokenizer.vocab_size == 400
    for text in corpus:
        expected = byte_level_backend.encode(text)
        encoding = tokenizer.encode(text)
        assert (encoding.ids, encoding.offsets) == (expected.ids, expected.offsets)


def test_truncation_and_padding_of_the_file_are_off(
    byte_level_backend: Any, tmp_path: Path
) -> None:
    checkpoint = folder(tmp_path, byte_level_backend)
    settings_of_training = json.loads((tmp_path / "tokenizer.json").read_text())
    settings_of_training["truncation"] = {
        "max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings_of_training))
    text = "a b c d e f g"
    expected = byte_level_backend.encode(text).ids
    assert load_tokenizer(checkpoint).encode(text).ids == expected


def test_the_end_is_what_checkpoint_or_tokenizer_says(byte_level_backend: Any) -> None:
    tokenizer = Tokenizer(byte_level_backend, eos_token="</s>", eos_token_ids=(5, 6))
    assert tokenizer.eos_token_ids == (5, 6, 1)
    assert Tokenizer(byte_level_backend, eos_token_ids=(5, 6)).eos_token_ids == (5, 6)
    assert Tokenizer(byte_level_backend, eos_token="none").eos_token_ids == ()


def test_offsets_are_characters(embedded_tokenizer: Tokenizer) -> None:
    text = "déjà 日本 😀!"
    encoding = embedded_tokenizer.encode(text)
    assert len(encoding.ids) == len(encoding.offsets)
    assert text[slice(*encoding.offsets[-1])] == "!"


def test_text_of_a_token(embedded_tokenizer: Tokenizer) -> None:
    assert embedded_tokenizer.text_of(2) == "<|im_end|>"
    (first, *_) = embedded_tokenizer.encode("😀").ids
    assert "\ufffd" in embedded_tokenizer.text_of(first)


def test_lone_surrogates_are_refused(embedded_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match="lone surrogate at character 2"):
        embedded_tokenizer.encode("ab\ud800")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint(path=tmp_path, kind="safetensors", config={})
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json.*AutoTokenizer"):
        load_tokenizer(checkpoint)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(checkpoint)


def test_token_bytes_add_up_to_the_text(embedded_tokenizer: Tokenizer, corpus: list[str]) -> None:
    table = embedded_tokenizer.token_bytes()
    assert len(table) == embedded_tokenizer.vocab_size
    for text in corpus:
        ids = embedded_tokenizer.encode(text).ids
        assert b"".join(table[token_id] for token_id in ids).decode() == text


def test_special_tokens_can_be_plain_text(embedded_checkpoint: Checkpoint) -> None:
    tokenizer = load_tokenizer(embedded_checkpoint)
    tokenizer.read_special_tokens_as_text()
    ids = tokenizer.encode("a<|im_end|>b", add_special_tokens=False).ids
    assert not tokenizer.special_ids.intersection(ids)
    assert "".join(map(tokenizer.text_of, ids)) == "a<|im_end|>b"


def test_embedded_tokenizer_builds_fast(embedded_checkpoint: Checkpoint) -> None:
    started = time.process_time()
    load_tokenizer(embedded_checkpoint)
    assert time.process_time() - started < 2.0


@pytest.mark.slow
def test_embedded_tokenizer_encodes_as_transformers_does(
    embedded_tokenizer: Tokenizer, reference_tokenizer: Any, corpus: list[str]
) -> None:
    for text in corpus:
        assert embedded_tokenizer.encode(text).ids == reference_tokenizer(text).input_ids, text
    added = reference_tokenizer.added_tokens_decoder
    assert embedded_tokenizer.special_ids == {id for id, token in added.items() if token.special}
    assert embedded_tokenizer.bos_token == reference_tokenizer.bos_token
    assert embedded_tokenizer.eos_token == reference_tokenizer.eos_token
    assert embedded_tokenizer.vocab_size == len(reference_tokenizer)


@pytest.mark.slow
@settings(max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_embedded_tokenizer_agrees_on_any_text(
    embedded_tokenizer: Tokenizer, reference_tokenizer: Any, text: str
) -> None:
    assert embedded_tokenizer.encode(text).ids == reference_tokenizer(text).input_ids
