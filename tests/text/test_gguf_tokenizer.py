"""Oracles: transformers' GGUF tokenizers on the same small files, and the tokenizers library."""

import itertools
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.checkpoint.gguf import GGUFFile
from headrace.errors import CheckpointError
from headrace.text.byte_level import PRE_TOKENIZERS
from headrace.text.gguf_tokenizer import build_backend

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def write(path: Path, model: str, keys: dict[str, Any], **arrays: list[Any]) -> GGUFFile:
    """A GGUF file with a vocabulary only."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("tokenizer.ggml.model", model)
    for name, values in arrays.items():
        writer.add_array(f"tokenizer.ggml.{name}", values)
    for name, value in keys.items():
        {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)](
            f"tokenizer.ggml.{name}", value
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GGUFFile(path)


def byte_level_file(path: Path, backend: Any, **keys: Any) -> GGUFFile:
    """The vocabulary of a trained tokenizer, `<s>` and `</s>` being its first two tokens."""
    vocabulary = sorted(backend.get_vocab(), key=backend.token_to_id)
    types = [CONTROL, CONTROL] + [NORMAL] * (len(vocabulary) - 2)
    merges = [" ".join(pair) for pair in merges_of(backend)]
    keys = {"bos_token_id": 0, "eos_token_id": 1} | keys
    return write(path, "gpt2", keys, tokens=vocabulary, token_type=types, merges=merges)


def merges_of(backend: Any) -> list[list[str]]:
    merges: list[list[str]] = json.loads(backend.to_str())["model"]["merges"]
    return merges


def test_plain_byte_level(byte_level_backend: Any, corpus: list[str], tmp_path: Path) -> None:
    built = build_backend(byte_level_file(tmp_path / "m.gguf", byte_level_backend, pre="gpt-2"))
    for text in corpus:
        assert built.encode(text).ids == byte_level_backend.encode(text).ids
        ids = built.encode(text).ids
        assert built.decode(ids) == byte_level_backend.decode(ids)


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "default"])
def test_pre_tokenizers_match_transformers(
    pre: str, byte_level_backend: Any, corpus: list[str], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    file = byte_level_file(tmp_path / "m.gguf", byte_level_backend, pre=pre, add_bos_token=False)
    reference = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    built = build_backend(file)
    # transformers adds GPT-2's own <|endoftext|> to a vocabulary that has no such token.
    for text in corpus:
        text = text.removesuffix("<|endoftext|>")
        assert built.encode(text).ids == reference(text, add_special_tokens=False).input_ids, text


def test_digits_are_split_from_the_spaces_before_them(
    byte_level_backend: Any, tmp_path: Path
) -> None:
    """llama.cpp's rule for "smollm": each character of category N alone, then GPT-2's split."""
    file = byte_level_file(tmp_path / "m.gguf", byte_level_backend, pre="smollm")
    pieces = build_backend(file).pre_tokenizer.pre_tokenize_str("a  12 ⅓")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "1", "2", "Ġ", "âħĵ"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"pre": "gpt-2"}, ["a"]),
        ({"pre": "llama-bpe"}, ["<s>", "a"]),
        ({"pre": "llama-bpe", "add_bos_token": False}, ["a"]),
        ({"pre": "gpt-2", "add_bos_token": True}, ["<s>", "a"]),
        ({"pre": "gpt-2", "add_eos_token": True}, ["a", "</s>"]),
        ({"pre": "gpt-2", "add_bos_token": True, "add_eos_token": True}, ["<s>", "a", "</s>"]),
    ],
)
def test_ends(
    keys: dict[str, Any], expected: list[str], byte_level_backend: Any, tmp_path: Path
) -> None:
    built = build_backend(byte_level_file(tmp_path / "m.gguf", byte_level_backend, **keys))
    assert built.encode("a").tokens == expected
    assert built.encode("a", add_special_tokens=False).tokens == ["a"]


WORDS = ["▁", "▁he", "he", "ll", "llo", "▁hello", "o", "h", "e", "l", "▁w", "w", "or", "r"]
SENTENCEPIECE = {
    "tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS, "<x>"],
    "scores": [0.0] * 259 + [-float(rank) for rank in range(len(WORDS))] + [0.0],
    "token_type": [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(WORDS), USER_DEFINED],
}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}


def sentencepiece_by_hand(text: str) -> list[str]:
    """SentencePiece's BPE as defined: join the neighbours whose union scores best, leftmost
    first, until none is a token; what is no token falls apart into bytes."""
    scores = dict(zip(SENTENCEPIECE["tokens"], SENTENCEPIECE["scores"], strict=True))
    parts = list("▁" + text.replace(" ", "▁")) if text else []
    while joined := [
        (-scores[a + b], index)
        for index, (a, b) in enumerate(itertools.pairwise(parts))
        if a + b in scores
    ]:
        _, index = min(joined)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    found = [[p] if p in scores else [f"<0x{b:02X}>" for b in p.encode()] for p in parts]
    return list(itertools.chain(*found))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    path = tmp_path_factory.mktemp("spm") / "m.gguf"
    return build_backend(write(path, "llama", ENDS, **SENTENCEPIECE))


@settings(max_examples=200)
@given(text=st.text("helowr é日", max_size=12))
def test_sentencepiece_is_the_algorithm(sentencepiece: Any, text: str) -> None:
    assert sentencepiece.encode(text, add_special_tokens=False).tokens == sentencepiece_by_hand(
        text
    )
    assert sentencepiece.decode(sentencepiece.encode(text).ids) == text


def test_sentencepiece_begins_with_bos_by_default(sentencepiece: Any) -> None:
    assert sentencepiece.encode("hello").tokens == ["<s>", "▁hello"]


def test_user_defined_tokens_are_found_but_not_special(sentencepiece: Any) -> None:
    ids = sentencepiece.encode("he<x>he</s>", add_special_tokens=False).ids
    tokens = [sentencepiece.id_to_token(token_id) for token_id in ids]
    assert tokens == ["▁he", "<x>", "▁he", "</s>"]
    assert sentencepiece.decode(ids) == "he<x> he"


def test_prefix_space_can_be_off(tmp_path: Path) -> None:
    keys = ENDS | {"add_space_prefix": False, "add_bos_token": False}
    built = build_backend(write(tmp_path / "m.gguf", "llama", keys, **SENTENCEPIECE))
    assert built.encode("he").tokens == ["he"]
    assert built.decode(built.encode(" he").ids) == " he"


@pytest.mark.parametrize(
    ("model", "keys", "arrays", "message"),
    [
        ("bert", {}, {"tokens": ["a"]}, "'bert' is not supported, only gpt2, llama"),
        ("gpt2", {"pre": "tekken"}, {"tokens": ["a"], "merges": ["a a"]}, "'tekken'"),
        ("gpt2", {}, {"tokens": ["a"]}, "tokenizer.ggml.merges must be of type list"),
        ("gpt2", {}, {"merges": ["a a"]}, "tokenizer.ggml.tokens must be of type list"),
        ("gpt2", {}, {"tokens": ["a"], "merges": ["x y"]}, "unusable tokenizer"),
        ("gpt2", {}, {"tokens": ["a"], "merges": ["x"]}, "unusable tokenizer"),
        ("llama", {}, {"tokens": ["a"], "scores": [0.0, 1.0]}, "2 entries for 1 tokens"),
        ("llama", {}, {"tokens": ["a" * 1025], "scores": [0.0]}, "a token of 1025 characters"),
        ("llama", {"bos_token_id": 9}, {"tokens": ["a"], "scores": [0.0]}, "out of range"),
    ],
)
def test_unusable_vocabularies_are_named(
    model: str, keys: dict[str, Any], arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "m.gguf", model, keys, **arrays)
    with pytest.raises(CheckpointError, match=message):
        build_backend(file)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_every_pre_tokenizer_keeps_all_text(name: str, corpus: list[str]) -> None:
    pre_tokenizer = PRE_TOKENIZERS[name]()
    decoder = tokenizers.decoders.ByteLevel()
    for text in corpus:
        pieces = [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]
        assert decoder.decode(pieces) == text
