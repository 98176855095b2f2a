"""Token ids to text, one id at a time, without ever cutting a character.

Each token stands for fixed bytes, so a table lookup and a UTF-8 decoder replace decoding the
whole sequence again. Hot file: `Detokenizer.feed` runs once per generated token.
"""

import json
from codecs import utf_8_decode
from collections.abc import Callable, Iterator
from typing import Any

from tokenizers import decoders

from headrace.errors import CheckpointError

SPACE = "▁"
"""SentencePiece's stand-in for a space."""


class TokenPieces(dict[int, str | bytes]):
    """What each token adds to the text, looked up on first use.

    A str when the token's bytes are whole characters, else bytes. Hidden tokens and ids outside
    the vocabulary (models pad theirs) add nothing.
    """

    def __init__(
        self,
        token_of: Callable[[int], str | None],
        decode: Callable[[str], bytes],
        hidden: frozenset[int],
    ) -> None:
        super().__init__()
        self._token_of = token_of
        self._decode = decode
        self._hidden = hidden

    def __missing__(self, token_id: int) -> str | bytes:
        token = None if token_id in self._hidden else self._token_of(token_id)
        data = b"" if token is None else self._decode(token)
        try:
            piece: str | bytes = data.decode()
        except UnicodeDecodeError:
            piece = data
        self[token_id] = piece
        return piece


class Detokenizer:
    """The text of one stream of ids, piece by piece.

    The pieces together are the UTF-8 decoding of all tokens' bytes, with invalid bytes replaced
    by U+FFFD. The stream continues a prompt, so a leading space is kept.
    """

    __slots__ = ("_pending", "_pieces")

    def __init__(self, pieces: TokenPieces) -> None:
        self._pieces = pieces
        self._pending = b""

    def feed(self, token_id: int) -> str:
        """Text that is complete now; bytes of an unfinished character wait."""
        piece = self._pieces[token_id]
        if piece.__class__ is str and not self._pending:
            return piece
        data = piece if isinstance(piece, bytes) else piece.encode()
        data = self._pending + data
        text, used = utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return text

    def flush(self) -> str:
        """End of stream: bytes that still wait will never be completed."""
        text = self._pending.decode(errors="replace")
        self._pending = b""
        return text


def token_decoder(decoder: decoders.Decoder | None) -> Callable[[str], bytes]:
    """How one token of this tokenizer becomes bytes.

    Raises CheckpointError for decoders whose tokens have no bytes of their own.
    """
    steps = list(_steps(json.loads(decoder.__getstate__()))) if decoder is not None else []
    kinds = {step["type"] for step in steps} - {"Fuse"}
    if kinds == {"ByteLevel"}:
        return _byte_level
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    known = all(step == spaces for step in steps if step["type"] == "Replace")
    if kinds and kinds <= {"Replace", "ByteFallback", "Strip", "Metaspace"} and known:
        return _sentencepiece_bytes if "ByteFallback" in kinds else _sentencepiece
    raise CheckpointError(
        f"the tokenizer's decoder {sorted(kinds)} is not supported, "
        "only byte-level and SentencePiece decoders"
    )


def _steps(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The decoder's parts in order, sequences unfolded."""
    if state["type"] == "Sequence":
        for part in state["decoders"]:
            yield from _steps(part)
    else:
        yield state


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 characters stand for themselves, the other
    bytes for the characters from U+0100 on, in order (Radford et al. 2019)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + index): byte for index, byte in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()
"""A byte-level token's characters to the bytes that they stand for."""


def _byte_level(token: str) -> bytes:
    """Added tokens may be spelled in plain text; they stand for themselves."""
    try:
        return bytes([BYTE_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    return token.replace(SPACE, " ").encode()


def _sentencepiece_bytes(token: str) -> bytes:
    """As above, with <0x00> to <0xFF> for single bytes."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return _sentencepiece(token)
