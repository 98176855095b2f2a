"""Oracles: the tokenizers library decoding the whole sequence, and Python's UTF-8 decoder."""

from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import CheckpointError
from headrace.text.tokenizer import Tokenizer

id_lists = st.lists(st.integers(0, 270), max_size=30)
STRICT = settings(max_examples=200)


def stream(tokenizer: Tokenizer, ids: list[int], skip_special_tokens: bool = True) -> list[str]:
    detokenizer = tokenizer.detokenizer(skip_special_tokens)
    return [*(detokenizer.feed(token_id) for token_id in ids), detokenizer.flush()]


@STRICT
@given(ids=id_lists, skip=st.booleans())
def test_byte_level_pieces_join_to_the_whole(
    byte_level_backend: Any, ids: list[int], skip: bool
) -> None:
    pieces = stream(Tokenizer(byte_level_backend), ids, skip)
    assert "".join(pieces) == byte_level_backend.decode(ids, skip_special_tokens=skip)


@STRICT
@given(text=st.text(max_size=30))
def test_valid_text_is_never_cut_inside_a_character(byte_level_backend: Any, text: str) -> None:
    tokenizer = Tokenizer(byte_level_backend)
    pieces = stream(tokenizer, tokenizer.encode(text).ids)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@STRICT
@given(text=st.text(max_size=30))
def test_byte_fallback_continues_a_prompt(unigram_backend: Any, text: str) -> None:
    """The whole is the difference that the ids make behind a prompt: a leading space counts."""
    ids = unigram_backend.encode(text).ids
    prompt = unigram_backend.encode("a").ids
    whole = unigram_backend.decode(prompt + ids).removeprefix(unigram_backend.decode(prompt))
    assert "".join(stream(Tokenizer(unigram_backend), ids)) == whole


@STRICT
@given(ids=id_lists)
def test_any_bytes_decode_as_utf8_with_replacement(unigram_backend: Any, ids: list[int]) -> None:
    data = b""
    for token_id in ids:
        token = unigram_backend.id_to_token(token_id)
        if token is None or token == "<s>":
            continue
        is_byte = token.startswith("<0x")
        data += bytes.fromhex(token[3:5]) if is_byte else token.replace("▁", " ").encode()
    pieces = stream(Tokenizer(unigram_backend), ids)
    assert "".join(pieces) == data.decode(errors="replace")


def test_a_character_waits_for_its_last_byte(byte_level_backend: Any) -> None:
    tokenizer = Tokenizer(byte_level_backend)
    ids = [byte_level_backend.token_to_id(token) for token in "ðŁĺĥ"]
    assert stream(tokenizer, ids) == ["", "", "", "😃", ""]
    assert stream(tokenizer, ids[:3]) == ["", "", "", "\ufffd"]
    assert stream(tokenizer, [*ids[:3], byte_level_backend.token_to_id("!")])[3] == "\ufffd!"


def test_special_tokens_are_skipped_or_shown(byte_level_backend: Any) -> None:
    tokenizer = Tokenizer(byte_level_backend)
    ids = [byte_level_backend.token_to_id(token) for token in ("</s>", "a")]
    assert stream(tokenizer, ids) == ["", "a", ""]
    assert stream(tokenizer, ids, skip_special_tokens=False) == ["</s>", "a", ""]


def test_ids_outside_the_vocabulary_add_nothing(byte_level_backend: Any) -> None:
    assert stream(Tokenizer(byte_level_backend), [10**6]) == ["", ""]


@pytest.mark.parametrize(
    "decoder",
    [
        tokenizers.decoders.WordPiece(),
        tokenizers.decoders.Sequence([tokenizers.decoders.Replace("_", " ")]),
        None,
    ],
)
def test_other_decoders_are_refused_by_name(decoder: Any) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    if decoder is not None:
        backend.decoder = decoder
    with pytest.raises(CheckpointError, match="decoder .* is not supported"):
        Tokenizer(backend)
