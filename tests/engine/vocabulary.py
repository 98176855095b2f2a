"""A vocabulary for grammars in tests: id b is byte b, and 256 ends the text."""

from dataclasses import dataclass

from headrace.engine.grammar import GrammarCompiler
from headrace.engine.grammar_jobs import GrammarJobs

EOS = 256


@dataclass
class ByteEncoding:
    ids: list[int]


class ByteVocabulary:
    special_ids = frozenset({EOS})
    eos_token_ids = (EOS,)

    def token_bytes(self) -> list[bytes]:
        return [bytes([byte]) for byte in range(256)] + [b"<eos>"]

    def encode(self, text: str, add_special_tokens: bool = True) -> ByteEncoding:
        return ByteEncoding(list(text.encode()))


def grammar_jobs(vocab_size: int) -> GrammarJobs:
    return GrammarJobs(GrammarCompiler(ByteVocabulary, vocab_size))


def text_of(token_ids: list[int]) -> str:
    return bytes(token for token in token_ids if token != EOS).decode()
