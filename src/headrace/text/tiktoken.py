"""Build a `tokenizers.Tokenizer` from a tiktoken file: lines of a token in base64 and its id.

The id is also the token's rank: of two neighbours that may be merged, the pair that gives the
token of lowest rank is merged first. How text is split and which special tokens follow the ranks
stands in no file but in the code of each model, so `FAMILIES` tells it by the tokenizer's class.
Source: the `tiktoken` package (load.py and its educational BPE).
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models

from headrace.errors import CheckpointError
from headrace.text.byte_level import byte_level
from headrace.text.detokenize import BYTE_ALPHABET
from headrace.text.sentencepiece import MAX_PIECE_LENGTH, every_merge

LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\s")
CHARACTERS = {byte: character for character, byte in BYTE_ALPHABET.items()}


@dataclass(frozen=True, kw_only=True)
class TiktokenFamily:
    """What a model's code knows of its tokenizer."""

    split: str
    """Key in PRE_TOKENIZERS."""
    special: tuple[str, ...] = ()
    """Special tokens that follow the ranks; "{}" in a name stands for the token's id."""
    prefix: tuple[str, ...] = ()
    """Special tokens before every text."""


LLAMA3 = TiktokenFamily(
    split="llama3",
    special=(
        "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
        "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
        *(f"<|reserved_special_token_{number}|>" for number in range(3, 248)),
    ),
    prefix=("<|begin_of_text|>",),
)  # fmt: skip
FAMILIES = {
    "None": LLAMA3,
    "PreTrainedTokenizer": LLAMA3,
    "LlamaTokenizer": LLAMA3,
    "QWenTokenizer": TiktokenFamily(
        split="qwen2",
        special=(
            "<|endoftext|>", "<|im_start|>", "<|im_end|>",
            *(f"<|extra_{number}|>" for number in range(205)),
        ),
    ),
    "TikTokenTokenizer": TiktokenFamily(
        split="kimi-k2", special=("<|reserved_token_{}|>",) * 256
    ),
    "Phi3SmallTokenizer": TiktokenFamily(
        split="llama3",
        special=(
            "<|dummy_id_2|>", "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>",
            "<|fim_suffix|>", "<|system|>", "<|user|>", "<|assistant|>", "<|dummy_id_0|>",
            "<|dummy_id_1|>", "<|end|>", *(f"<|dummy_id_{number}|>" for number in range(3, 12)),
            "<|endofprompt|>",
        ),
    ),
    "ChatGLM4Tokenizer": TiktokenFamily(split="llama3", prefix=("[gMASK]", "<sop>")),
}  # fmt: skip
"""By transformers' tokenizer class (without Fast): of Llama 3, which Meta's own folder names none
for, Qwen 1, Kimi, Phi-3-small and GLM-4. The names in tokenizer_config.json come first."""


def is_tiktoken(path: Path) -> bool:
    """Whether the file begins with such a line; a tokenizer.model may be of another format."""
    with path.open("rb") as file:
        return LINE.match(file.read(4096)) is not None


def family_of(tokenizer_class: object, path: Path) -> TiktokenFamily:
    """Raises CheckpointError for a class that is not known; it names them."""
    name = str(tokenizer_class).removesuffix("Fast")
    if name not in FAMILIES:
        raise CheckpointError(
            f"{path}: how tokenizer_class {name} splits text is not known; "
            f"known are {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def build(ranks: dict[bytes, int], family: TiktokenFamily) -> Tokenizer:
    """The tokenizer without special tokens; `ranks` ascend."""
    vocabulary = {_spelled(token): rank for token, rank in ranks.items()}
    merges = every_merge(vocabulary, vocabulary)
    return byte_level(models.BPE(vocabulary, merges, ignore_merges=True), family.split)


def special_tokens(ranks: Mapping[bytes, int], family: TiktokenFamily) -> dict[int, str]:
    """Those of the family, by id."""
    first = max(ranks.values()) + 1
    return {first + index: name.format(first + index) for index, name in enumerate(family.special)}


def read_ranks(path: Path) -> dict[bytes, int]:
    """Tokens by rank, ascending. Raises CheckpointError naming the line that is none."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            encoded, rank = line.split()
            ranks[base64.b64decode(encoded, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise CheckpointError(
                f"{path}: line {number} is not a token in base64 and its id: {line[:40]!r}"
            ) from None
    _check(ranks, path)
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def _lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().splitlines() if line]
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _check(ranks: Mapping[bytes, int], path: Path) -> None:
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise CheckpointError(f"{path}: {len(missing)} single bytes are no tokens: {missing[:5]}")
    if (length := max(map(len, ranks))) > MAX_PIECE_LENGTH:
        raise CheckpointError(
            f"{path} has a token of {length} bytes, at most {MAX_PIECE_LENGTH} are allowed"
        )
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise CheckpointError(f"{path}: the ids of {len(ranks)} tokens are not 0 and following")


def _spelled(token: bytes) -> str:
    """In the characters that stand for bytes in byte-level BPE."""
    return "".join(CHARACTERS[byte] for byte in token)
