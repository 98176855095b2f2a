"""Turns grammars into matchers over the model's tokens, within limits on time and size.

Knows tokens as bytes, by way of a `Vocabulary` that is loaded with the first grammar: without
grammars none of this costs anything.
"""

import json
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from headrace.engine.constraint import check
from headrace.engine.json_formats import with_exact_formats
from headrace.errors import ValidationError
from headrace.types import JSON_SPACING, Grammar

MAX_SOURCE_BYTES: Final = 128 * 1024
MAX_CACHED_GRAMMARS: Final = 32
LIMITS: Final = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # about a third of a second
    step_lexer_fuel=50_000,  # a few milliseconds
    step_max_items=5_000,  # about ten milliseconds; a schema of 200 properties needs a fifth
    max_items_in_row=2_000,
    max_lexer_states=20_000,  # some 1.5 kB each
    max_grammar_size=100_000,  # symbols
    verbose_errors=False,
)
MAX_FORCED_CHARACTERS: Final = 256
"""Where a grammar leaves no choice, tokens are those of the forced text, of which no more than this
is looked at. The mask needs just the first of them."""
MAX_FORCED_TEXTS: Final = 1024
"""Whose tokens are kept."""


def _from_json_schema(source: str) -> str:
    try:
        exact = json.dumps(with_exact_formats(json.loads(source)))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # An unknown constraint is an error, never ignored.
    return LLMatcher.grammar_from_json_schema(exact, {**JSON_SPACING}, {"lenient": False})


COMPILERS: Final[dict[str, Callable[[str], str]]] = {
    "json": _from_json_schema,
    "regex": LLMatcher.grammar_from_regex,
    "lark": LLMatcher.grammar_from_lark,
}
"""By `Grammar.kind`."""


class Encoding(Protocol):
    """A tokenized text."""

    @property
    def ids(self) -> list[int]: ...


class Vocabulary(Protocol):
    """What grammars must know of a tokenizer."""

    special_ids: frozenset[int]
    eos_token_ids: tuple[int, ...]

    def token_bytes(self) -> list[bytes]:
        """By id, what each token adds to the text."""
        ...

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """The name of a special token, spelled out, must be text like any other."""
        ...


class _Tokens:
    """A vocabulary in the shape that llguidance asks for."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        tokens = vocabulary.token_bytes()[:vocab_size]
        self.tokens = tokens + [b""] * (vocab_size - len(tokens))
        special_ids = vocabulary.special_ids.union(vocabulary.eos_token_ids)
        self.special_token_ids = [token_id for token_id in special_ids if token_id < vocab_size]
        self.eos_token_id = vocabulary.eos_token_ids[0]
        # The same names come again and again, and a text takes as long as a mask.
        self._encode = lru_cache(MAX_FORCED_TEXTS)(lambda text: vocabulary.encode(text, False).ids)

    def __call__(self, text: str) -> list[int]:
        return self._encode(text[:MAX_FORCED_CHARACTERS])


class GrammarCompiler:
    """Grammars to matchers, with the last ones kept. Safe to use from several threads.

    vocab_size: of the model's logits; ids beyond the tokenizer's are never allowed.
    """

    def __init__(self, load_vocabulary: Callable[[], Vocabulary], vocab_size: int) -> None:
        self._load_vocabulary = load_vocabulary
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._compiled = lru_cache(MAX_CACHED_GRAMMARS)(self._compile)

    def matcher(self, grammar: Grammar) -> LLMatcher:
        """A fresh matcher at the grammar's start. Raises ValidationError."""
        return self._compiled(grammar).deep_copy()

    def _compile(self, grammar: Grammar) -> LLMatcher:
        if len(grammar.source.encode()) > MAX_SOURCE_BYTES:
            raise ValidationError(
                f"grammar is not valid: it is longer than {MAX_SOURCE_BYTES} bytes"
            )
        try:
            source = COMPILERS[grammar.kind](grammar.source)
        except ValueError as error:
            raise ValidationError(f"grammar is not valid: {error}") from None
        matcher = LLMatcher(self._load_tokenizer(), source, log_level=0, limits=LIMITS)
        check(matcher)
        return matcher

    def _load_tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                vocabulary = self._load_vocabulary()
                if not vocabulary.eos_token_ids:
                    raise ValidationError(
                        "grammar is not supported: the model has no end-of-sequence token"
                    )
                self._tokenizer = LLTokenizer(
                    _Tokens(vocabulary, self._vocab_size),  # type: ignore[arg-type]
                    eos_token=list(vocabulary.eos_token_ids),
                )
            return self._tokenizer
