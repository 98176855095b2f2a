"""Folders with a tiktoken file only. Oracle: the tiktoken package over the same ranks."""

import base64
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken_ext.openai_public
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers, trainers

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import CheckpointError
from headrace.text.byte_level import byte_level
from headrace.text.detokenize import BYTE_ALPHABET
from headrace.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.conftest import train

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
FIRST, LATER = (
    rf"[{letters}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]" for letters in (r"\p{Lu}\p{Lt}", r"\p{Ll}")
)
KIMI = (
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{FIRST}*{LATER}+{CONTRACTION}|"
    rf"[^\r\n\p{{L}}\p{{N}}]?{FIRST}+{LATER}*{CONTRACTION}|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NUM_RANKS = 400
SOME_NAMES = {
    "added_tokens_decoder": {
        str(NUM_RANKS + 2): {"content": "<|im_end|>", "special": True},
        str(NUM_RANKS + 3): {"content": "<|im_user|>", "special": True},
    }
}
GLM_NAMES = {
    "added_tokens_decoder": {
        str(NUM_RANKS + index): {"content": name, "special": True}
        for index, name in enumerate(("<|endoftext|>", "[gMASK]", "<sop>"))
    }
}


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Learned from the corpus, as bytes."""
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_RANKS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = train(models.BPE(), pre_tokenizer, trainer).get_vocab()
    spelled = {
        bytes(BYTE_ALPHABET[char] for char in token): rank for token, rank in vocabulary.items()
    }
    assert len(spelled) == NUM_RANKS
    return spelled


@pytest.fixture
def cl100k(monkeypatch: pytest.MonkeyPatch) -> str:
    """The pattern as the package has it."""
    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    return str(tiktoken_ext.openai_public.cl100k_base()["pat_str"])


def write(path: Path, ranks: dict[bytes, int], config: dict[str, Any]) -> None:
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    path.write_bytes(b"".join(lines))
    (path.parent / "tokenizer_config.json").write_text(json.dumps(config))


def load(folder: Path) -> Tokenizer:
    return load_tokenizer(Checkpoint(path=folder, kind="safetensors", config={}))


CASES = {
    "llama3": ("tokenizer.model", None, {}, "cl100k", ("<|begin_of_text|>", 0), ("<|eot_id|>", 9)),
    "qwen": ("qwen.tiktoken", "QWenTokenizer", {}, QWEN, None, ("<|im_end|>", 2)),
    "kimi": ("tiktoken.model", "TikTokenTokenizer", SOME_NAMES, KIMI, None, ("<|im_end|>", 2)),
    "phi3-small": (
        "cl100k_base.tiktoken", "Phi3SmallTokenizer", {}, "cl100k", None, ("<|end|>", 10)
    ),
    "glm4": (
        "tokenizer.model", "ChatGLM4Tokenizer", GLM_NAMES, "cl100k", ("<sop>", 2), ("[gMASK]", 1)
    ),
}  # fmt: skip
"""File, class, what else the configuration says, pattern, the last token before a text, and a
special token with its place behind the ranks."""


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_tiktoken(
    name: str, ranks: dict[bytes, int], cl100k: str, corpus: list[str], tmp_path: Path
) -> None:
    file, tokenizer_class, config, pattern, before, (special, place) = CASES[name]
    if tokenizer_class is not None:
        config = config | {"tokenizer_class": tokenizer_class}
    write(tmp_path / file, ranks, config)
    tokenizer = load(tmp_path)
    reference = tiktoken.Encoding(
        name,
        pat_str=cl100k if pattern == "cl100k" else pattern,
        mergeable_ranks=ranks,
        special_tokens={special: NUM_RANKS + place},
    )
    without_special = [text.replace("<|", "< |") for text in corpus]
    for text in [*without_special, f"{special}x{special}", "HelloWorld漢字", "e\u0301", " " * 50]:
        text = unicodedata.normalize("NFC", text) if name == "qwen" else text
        expected = reference.encode(text, allowed_special="all")
        assert tokenizer.encode(text, add_special_tokens=False).ids == expected, text
        detokenizer = tokenizer.detokenizer(skip_special_tokens=False)
        assert "".join(map(detokenizer.feed, expected)) == text
    (*_, last) = [None, *tokenizer.encode("").ids]
    assert last == (None if before is None else NUM_RANKS + before[1])
    assert tokenizer.token_id(special) == NUM_RANKS + place
    assert NUM_RANKS + place in tokenizer.special_ids


def test_names_of_the_configuration_come_first(ranks: dict[bytes, int], tmp_path: Path) -> None:
    write(tmp_path / "tiktoken.model", ranks, SOME_NAMES | {"tokenizer_class": "TikTokenTokenizer"})
    tokenizer = load(tmp_path)
    assert tokenizer.token_id("<|im_user|>") == NUM_RANKS + 3
    assert tokenizer.token_id(f"<|reserved_token_{NUM_RANKS + 4}|>") == NUM_RANKS + 4
    assert tokenizer.token_id(f"<|reserved_token_{NUM_RANKS + 3}|>") is None
    assert tokenizer.vocab_size == NUM_RANKS + 256


@pytest.fixture(scope="module")
def pair(ranks: dict[bytes, int], tmp_path_factory: Any) -> tuple[Tokenizer, tiktoken.Encoding]:
    folder = tmp_path_factory.mktemp("kimi")
    write(folder / "tiktoken.model", ranks, {"tokenizer_class": "TikTokenTokenizer"})
    encoding = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens={})
    return load(folder), encoding


@settings(max_examples=300)
@given(
    text=st.text(
        st.one_of(
            st.sampled_from("aetTHI'sld 漢字👩‍👧🇩🇪\u0301 \n\r09"), st.characters(codec="utf-8")
        )
    )
)
def test_any_text(pair: tuple[Tokenizer, tiktoken.Encoding], text: str) -> None:
    tokenizer, reference = pair
    ids = tokenizer.encode(text).ids
    assert ids == reference.encode_ordinary(text)
    detokenizer = tokenizer.detokenizer()
    pieces = [*map(detokenizer.feed, ids), detokenizer.flush()]
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", ["gpt-4o", "llama4"])
def test_o200k_splits_as_the_package_says(
    kind: str, monkeypatch: pytest.MonkeyPatch, corpus: list[str]
) -> None:
    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    pattern = tiktoken_ext.openai_public.o200k_base()["pat_str"]
    reference = pre_tokenizers.Split(Regex(pattern), "isolated")
    ours = byte_level(models.BPE(), kind).pre_tokenizer
    for text in [*corpus, "camelCaseWords a//\n/b They'Re"]:
        spans = [span for _, span in ours.pre_tokenize_str(text)]
        assert spans == [span for _, span in reference.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("tokenizer_class", "content", "message"),
    [
        ("OddTokenizer", b"IQ== 0\n", "tokenizer_class OddTokenizer .*known are None, .*QWen"),
        ("QWenTokenizer", b"IQ== 0\nIg==\n", "line 2 is not a token in base64 and its id: b'Ig=='"),
        ("QWenTokenizer", b"IQ== 0\nI*== 1\n", "line 2 is not"),
        ("QWenTokenizer", b"IQ== 0\n", "255 single bytes are no tokens"),
        ("QWenTokenizer", b"", "256 single bytes are no tokens"),
    ],
)
def test_what_cannot_be_read_is_named(
    tokenizer_class: str, content: bytes, message: str, tmp_path: Path
) -> None:
    write(tmp_path / "qwen.tiktoken", {}, {"tokenizer_class": tokenizer_class})
    (tmp_path / "qwen.tiktoken").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"a" * 1025: NUM_RANKS}, "a token of 1025 bytes"),
        ({b"zzz": NUM_RANKS + 5}, "ids of 401 tokens are not 0 and following"),
    ],
)
def test_unusable_ranks_are_named(
    changes: dict[bytes, int], message: str, ranks: dict[bytes, int], tmp_path: Path
) -> None:
    write(tmp_path / "tokenizer.model", ranks | changes, {})
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_a_missing_prefix_and_a_second_file_are_named(
    ranks: dict[bytes, int], tmp_path: Path
) -> None:
    write(tmp_path / "tokenizer.model", ranks, {"tokenizer_class": "ChatGLM4Tokenizer"})
    with pytest.raises(CheckpointError, match=r"names no token \[gMASK\]"):
        load(tmp_path)
    for name in ("a.tiktoken", "b.tiktoken"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="several: a.tiktoken, b.tiktoken"):
        load(tmp_path)
