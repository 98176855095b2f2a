"""Oracle: the sentencepiece library, on models that it trains here."""

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import CheckpointError
from headrace.text.sentencepiece import build, read_model
from headrace.text.tokenizer import Tokenizer

TEXTS = [
    "Hello world, how are you?",
    "the cat sat on the mat",
    "na\u00efve caf\u00e9 \u2014 d\u00e9j\u00e0 vu",
]
KINDS = {
    "llama": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
              "remove_extra_whitespaces": False},
    "gemma": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
              "remove_extra_whitespaces": False, "add_dummy_prefix": False},
    "unigram": {"model_type": "unigram", "byte_fallback": True},
}  # fmt: skip
words = st.text(
    st.one_of(st.sampled_from("helo wrdtcasm  ,é\u2014"), st.characters(codec="utf-8")), max_size=30
)


def train(path: Path, kind: str) -> sentencepiece.SentencePieceProcessor:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 10), model_writer=written, vocab_size=330,
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
        user_defined_symbols=["<|user|>"], **KINDS[kind],
    )  # fmt: skip
    path.write_bytes(written.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


class Pair:
    """The library's reading of a model, and ours."""

    def __init__(self, path: Path, kind: str) -> None:
        self.reference = train(path, kind)
        self.backend = build(read_model(path))


@pytest.fixture(scope="module", params=KINDS)
def pair(request: Any, tmp_path_factory: Any) -> Pair:
    return Pair(tmp_path_factory.mktemp("models") / "tokenizer.model", request.param)


def test_the_corpus(pair: Pair, corpus: list[str]) -> None:
    for text in [*TEXTS, *corpus, "", " ", "a  b"]:
        assert pair.backend.encode(text).ids == pair.reference.encode(text), text


def test_text_around_special_tokens_is_read_by_itself(pair: Pair) -> None:
    reference, symbol = pair.reference, pair.reference.piece_to_id("<|user|>")
    ids = pair.backend.encode("<|user|>Hello<|user|> world").ids
    assert ids == [symbol, *reference.encode("Hello"), symbol, *reference.encode(" world")]


@settings(max_examples=300)
@given(text=words)
def test_any_text(pair: Pair, text: str) -> None:
    assert pair.backend.encode(text).ids == pair.reference.encode(text)


@settings(max_examples=300)
@given(text=words)
def test_streamed_pieces_join_to_the_whole(pair: Pair, text: str) -> None:
    ids = pair.reference.encode(text)
    detokenizer = Tokenizer(pair.backend).detokenizer(skip_special_tokens=False)
    streamed = "".join(map(detokenizer.feed, ids)) + detokenizer.flush()
    # A stream continues a prompt: the space that begins a text is kept.
    prompt = pair.reference.encode("cat")
    whole = pair.reference.decode(prompt + ids).removeprefix(pair.reference.decode(prompt))
    assert streamed == whole


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 20, b"\x0a\xff\x01", b"{}", b"\x0a\x02\x08\x01", b"\x0b"]
)
def test_other_files_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="tokenizer.model: (not a Sentence|is empty, or)"):
        read_model(path)


@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_model_or_refused(content: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.model"
    path.write_bytes(content)
    try:
        assert read_model(path).pieces
    except CheckpointError as error:
        assert "any.model" in str(error)
