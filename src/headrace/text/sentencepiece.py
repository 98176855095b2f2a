"""Build a `tokenizers.Tokenizer` that reads text as SentencePiece does.

From pieces with scores and types, whatever file they come from; and the reader of SentencePiece's
own `tokenizer.model`, a protocol buffer. Source: `sentencepiece_model.proto` of SentencePiece.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from headrace.errors import CheckpointError
from headrace.text.detokenize import SPACE

MAX_PIECE_LENGTH = 1024
"""In characters, because every way to cut a piece in two is tried."""


class PieceType(IntEnum):
    """What a piece is for; GGUF files use the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


UNIGRAM, BPE = 1, 2


@dataclass(slots=True, kw_only=True)
class SentencePieceModel:
    """A vocabulary, and how text is prepared for it."""

    source: str
    """For error messages."""
    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    algorithm: int = UNIGRAM
    bos_id: int = 1
    eos_id: int = 2
    adds_space: bool = True
    """A space goes before the text, and (as in transformers) after every special token."""
    removes_spaces: bool = True
    """Of several spaces one is kept; none at the ends."""
    charsmap: bytes = b""
    """Compiled Unicode normalization."""


def build(model: SentencePieceModel) -> Tokenizer:
    """Raises CheckpointError for a vocabulary that is too large to be cut or is none."""
    if (length := max(map(len, model.pieces), default=0)) > MAX_PIECE_LENGTH:
        raise CheckpointError(
            f"{model.source} has a token of {length} characters, "
            f"at most {MAX_PIECE_LENGTH} are allowed"
        )
    if model.algorithm not in (UNIGRAM, BPE):
        raise CheckpointError(
            f"{model.source}: SentencePiece model type {model.algorithm} is not supported, "
            "only Unigram and BPE"
        )
    backend = Tokenizer(_bpe(model) if model.algorithm == BPE else _unigram(model))
    backend.normalizer = normalizers.Sequence(list(_normalizers(model)))
    decoding: list[decoders.Decoder] = [
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()
    ]  # fmt: skip
    if model.adds_space:
        decoding.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(decoding)
    add_tokens(backend, model.pieces, model.types)
    return backend


def add_tokens(backend: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Control and user-defined tokens are found in the text before anything is split."""
    kinds = list(zip(tokens, types, strict=False))
    special = [t for t, kind in kinds if kind == PieceType.CONTROL]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    user_defined = [t for t, kind in kinds if kind == PieceType.USER_DEFINED]
    backend.add_tokens([AddedToken(t, normalized=False) for t in user_defined])


def _unknown(model: SentencePieceModel) -> int | None:
    return next((i for i, kind in enumerate(model.types) if kind == PieceType.UNKNOWN), None)


def _bpe(model: SentencePieceModel) -> models.BPE:
    """By scores: the pair whose merged token scores highest is merged first."""
    vocabulary = {piece: index for index, piece in enumerate(model.pieces)}
    unknown = _unknown(model)
    return models.BPE(
        vocabulary,
        every_merge(vocabulary, _by_score(vocabulary, model.scores)),
        unk_token=None if unknown is None else model.pieces[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )


def _by_score(vocabulary: dict[str, int], scores: Sequence[float]) -> list[str]:
    return sorted(vocabulary, key=lambda token: -scores[vocabulary[token]])


def every_merge(vocabulary: dict[str, int], ordered: Iterable[str]) -> list[tuple[str, str]]:
    """Every way to cut a token into two tokens, in the order of the whole ones in `ordered`."""
    merges = []
    for token in ordered:
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [pair for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges


def _unigram(model: SentencePieceModel) -> models.Unigram:
    scored = list(zip(model.pieces, model.scores, strict=True))
    return models.Unigram(scored, unk_id=_unknown(model), byte_fallback=True)


def _normalizers(model: SentencePieceModel) -> Iterator[normalizers.Normalizer]:
    if model.charsmap:
        yield normalizers.Precompiled(model.charsmap)
    if model.removes_spaces:
        yield normalizers.Replace(Regex("^ +| +$"), "")
        yield normalizers.Replace(Regex(" {2,}"), " ")
    if model.adds_space:
        yield normalizers.Prepend(SPACE)
    yield normalizers.Replace(" ", SPACE)


def read_model(path: Path) -> SentencePieceModel:
    """Raises CheckpointError for anything but a SentencePiece model with byte fallback."""
    model = SentencePieceModel(source=str(path))
    try:
        for number, value in _fields(path.read_bytes()):
            if number in _PARTS and isinstance(value, bytes):
                _PARTS[number](model, dict(_fields(value)))
    except (OSError, ValueError, IndexError, TypeError, struct.error) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from None
    if PieceType.BYTE not in model.types:
        raise CheckpointError(
            f"{path}: is empty, or has no pieces for single bytes, which are needed"
        )
    return model


Fields = dict[int, int | bytes]


def _read_piece(model: SentencePieceModel, fields: Fields) -> None:
    model.pieces.append(_bytes(fields, 1, b"").decode())
    model.scores.append(struct.unpack("<f", _bytes(fields, 2, bytes(4)))[0])
    model.types.append(_number(fields, 3, PieceType.NORMAL))


def _read_trainer(model: SentencePieceModel, fields: Fields) -> None:
    model.algorithm = _number(fields, 3, UNIGRAM)
    model.bos_id = _number(fields, 41, 1)
    model.eos_id = _number(fields, 42, 2)


def _read_normalizer(model: SentencePieceModel, fields: Fields) -> None:
    model.charsmap = _bytes(fields, 2, b"")
    model.adds_space = bool(_number(fields, 3, 1))
    model.removes_spaces = bool(_number(fields, 4, 1))


_PARTS = {1: _read_piece, 2: _read_trainer, 3: _read_normalizer}
"""By field number of ModelProto."""


def _number(fields: Fields, number: int, default: int) -> int:
    value = fields.get(number, default)
    if isinstance(value, bytes):
        raise TypeError(f"field {number} is not a number")
    # Negative numbers are 64-bit two's complement; -1 means that there is no such token.
    return value - (1 << 64) if value >> 63 else value


def _bytes(fields: Fields, number: int, default: bytes) -> bytes:
    value = fields.get(number, default)
    if isinstance(value, int):
        raise TypeError(f"field {number} is a number")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one protocol buffer message: a number, or bytes for all that has a length."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == 2:
            size, position = _varint(data, position)
        else:
            size = {1: 8, 5: 4}.get(kind, -1)
        if size < 0 or size > len(data) - position:
            raise ValueError(f"wire type {kind} at byte {position}")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of 7 bits, and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {position}")
