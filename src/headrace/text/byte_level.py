"""Byte-level BPE: how each kind splits text before it merges bytes. Knows no file format."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
PUNCTUATION_AND_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
"""Letters that a word may begin with, and those that may follow: both have scripts without case."""


def _split(pattern: str) -> pre.PreTokenizer:
    return pre.Sequence(
        [
            pre.Split(Regex(pattern), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2() -> pre.PreTokenizer:
    return pre.ByteLevel(add_prefix_space=False)


def _single_digits() -> pre.PreTokenizer:
    return pre.Sequence([pre.Digits(individual_digits=True), _gpt2()])


def _cl100k(digits: str) -> pre.PreTokenizer:
    """The members of this family of tiktoken's differ in how digits group."""
    return _split(f"{CONTRACTIONS}|{WORDS}|{digits}|{PUNCTUATION_AND_SPACES}")


def _llama3() -> pre.PreTokenizer:
    return _cl100k(r"\p{N}{1,3}")


def _qwen2() -> pre.PreTokenizer:
    return _cl100k(r"\p{N}")


def _o200k() -> pre.PreTokenizer:
    """Words end before a new capital letter, and slashes belong to the punctuation before them."""
    punctuation = PUNCTUATION_AND_SPACES.replace(r"[\r\n]*", r"[\r\n/]*", 1)
    return _split(rf"{_cased_words(UPPER, LOWER)}|\p{{N}}{{1,3}}|{punctuation}")


def _kimi() -> pre.PreTokenizer:
    """Chinese characters are runs of their own, and no part of other words."""
    words = _cased_words(*(rf"{letters}&&[^\p{{Han}}]" for letters in (UPPER, LOWER)))
    return _split(rf"\p{{Han}}+|{words}|\p{{N}}{{1,3}}|{PUNCTUATION_AND_SPACES}")


def _cased_words(upper: str, lower: str) -> str:
    begin, end = r"[^\r\n\p{L}\p{N}]?", f"(?:{CONTRACTIONS})?"
    return f"{begin}[{upper}]*[{lower}]+{end}|{begin}[{upper}]+[{lower}]*{end}"


PRE_TOKENIZERS = {
    "default": _gpt2,
    "gpt-2": _gpt2,
    "smollm": _single_digits,
    "starcoder": _single_digits,
    "refact": _single_digits,
    "codeshell": _single_digits,
    "llama-bpe": _llama3,
    "llama-v3": _llama3,
    "llama3": _llama3,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
    "gpt-4o": _o200k,
    "llama4": _o200k,
    "kimi-k2": _kimi,
}
"""By the names that GGUF files have for them (tokenizer.ggml.pre); without one it is "default"."""

NFC = {"qwen2"}
"""Those that read text in Unicode's composed form."""


def byte_level(model: models.BPE, kind: str) -> Tokenizer:
    """`kind`: a key in PRE_TOKENIZERS."""
    backend = Tokenizer(model)
    if kind in NFC:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = PRE_TOKENIZERS[kind]()
    backend.decoder = decoders.ByteLevel()
    return backend
