"""Text to token ids. Wraps a `tokenizers.Tokenizer`, whichever file it came from."""

from dataclasses import dataclass

import tokenizers

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import ValidationError
from headrace.text.detokenize import Detokenizer, TokenPieces, token_decoder
from headrace.text.gguf_tokenizer import build_backend
from headrace.text.tokenizer_files import read_backend, read_config, token_name


@dataclass(frozen=True, slots=True)
class Encoding:
    """Token ids and, for each, the half-open range of characters it covers in the text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """Encodes prompts and hands out detokenizers. Safe to use from several threads.

    Raises CheckpointError when the backend's decoder is of a kind that cannot be streamed.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        eos_token_ids: tuple[int, ...] = (),
    ) -> None:
        # A tokenizer.json keeps the settings of its last user.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.eos_token_ids = tuple(dict.fromkeys((*eos_token_ids, *self._ids_of(eos_token))))
        """The checkpoint's, and `eos_token`: some chat models were given it without the rest."""
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self._decode = token_decoder(backend.decoder)
        self._pieces_by_hidden: dict[frozenset[int], TokenPieces] = {}
        self._pieces = self._pieces_hiding(frozenset())

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """Token ids of a text. Without `add_special_tokens` no BOS or EOS is added; special
        tokens that are spelled out in the text count as such in both cases.

        Raises ValidationError for text that is not valid Unicode (JSON can carry half a pair)."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValidationError(
                f"`inputs` must be valid Unicode: lone surrogate at character {error.start}"
            ) from None
        encoding = self._backend.encode(text, add_special_tokens=add_special_tokens)
        return Encoding(encoding.ids, encoding.offsets)

    def detokenizer(
        self, skip_special_tokens: bool = True, shown: frozenset[int] = frozenset()
    ) -> Detokenizer:
        """A fresh detokenizer for one stream of ids that continues some prompt.

        `shown` are special tokens that are not skipped.
        """
        hidden = self.special_ids - shown if skip_special_tokens else frozenset()
        return Detokenizer(self._pieces_hiding(hidden))

    def token_id(self, text: str) -> int | None:
        """The token that a text is, if it is one."""
        return self._backend.token_to_id(text)

    def has_same_ids_as(self, other: "Tokenizer") -> bool:
        """Whether every token has the same id in both."""
        vocabularies = (t._backend.get_vocab(with_added_tokens=True) for t in (self, other))
        return next(vocabularies) == next(vocabularies)

    def text_of(self, token_id: int) -> str:
        """The text of one token on its own; bytes of incomplete characters show as U+FFFD."""
        piece = self._pieces[token_id]
        return piece if isinstance(piece, str) else piece.decode(errors="replace")

    def read_special_tokens_as_text(self) -> None:
        """From now on, special tokens that are spelled out in a text count as plain text."""
        self._backend.encode_special_tokens = True

    def token_bytes(self) -> list[bytes]:
        """By id, what each token adds to the text. A second's work for a large vocabulary."""
        pieces = (self._pieces[token_id] for token_id in range(self.vocab_size))
        return [piece.encode() if isinstance(piece, str) else piece for piece in pieces]

    def _pieces_hiding(self, hidden: frozenset[int]) -> TokenPieces:
        if hidden not in self._pieces_by_hidden:
            pieces = TokenPieces(self._backend.id_to_token, self._decode, hidden)
            self._pieces_by_hidden[hidden] = pieces
        return self._pieces_by_hidden[hidden]

    def _ids_of(self, token: str | None) -> tuple[int, ...]:
        token_id = None if token is None else self._backend.token_to_id(token)
        return () if token_id is None else (token_id,)


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's own tokenizer. Raises CheckpointError when it has none that is usable."""
    if checkpoint.gguf is not None:
        tokens = checkpoint.gguf.metadata.get("tokenizer.ggml.tokens", [])
        backend = build_backend(checkpoint.gguf)
        return Tokenizer(
            backend,
            bos_token=_token_at(tokens, checkpoint.config.get("bos_token_id")),
            eos_token=_token_at(tokens, next(iter(checkpoint.eos_token_ids), None)),
            eos_token_ids=checkpoint.eos_token_ids,
        )
    config = read_config(checkpoint.text_folder)
    return Tokenizer(
        read_backend(checkpoint.text_folder, config),
        bos_token=token_name(config, "bos_token"),
        eos_token=token_name(config, "eos_token"),
        eos_token_ids=checkpoint.eos_token_ids,
    )


def _token_at(tokens: list[str], token_id: int | None) -> str | None:
    return None if token_id is None or token_id >= len(tokens) else tokens[token_id]
