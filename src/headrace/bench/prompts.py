"""The prompts to send: synthetic English of about a given length, or the lines of a file."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import orjson

from headrace.bench.errors import BenchError

Messages = list[dict[str, Any]]
Prompt = str | list[int] | Messages
"""Text, token ids (for completions only) or chat messages (for chat only)."""
PromptSource = Callable[[int], Prompt]
"""Prompt number -> prompt; the same number always gives the same prompt."""

# Common words: in the usual vocabularies each is one token together with the space before it, and
# the full stop is one more.
ADJECTIVES = """old young small large long short dark bright cold warm quiet loud deep high low
early late heavy light strong weak empty full rich poor clean dry wet green white black red blue
local public private common rare simple""".split()  # noqa: SIM905
NOUNS = """river water house road stone tree field garden city village market king doctor teacher
farmer child mother father friend horse dog bird fish ship train car door window table chair book
letter story song picture machine engine wheel bridge mountain valley forest island lake sea wind
rain snow fire light night morning summer winter year day school church hospital station office
kitchen room wall floor bread milk coffee gold silver iron glass paper""".split()  # noqa: SIM905
VERBS = """carried found left opened closed followed watched crossed reached passed built moved
turned held kept lost sold bought gave took made saw heard knew liked loved feared needed used
cleaned painted covered filled pulled pushed broke fixed drew""".split()  # noqa: SIM905
PREPOSITIONS = "near behind under above inside beyond beside before after against".split()  # noqa: SIM905


@dataclass(frozen=True, slots=True)
class SyntheticPrompts:
    """Sentences such as "The old farmer crossed the quiet river near the bridge."

    Each prompt differs from all others from its first words on, so that a prefix cache finds only
    the shared prefix.
    """

    num_tokens: int
    shared_prefix_tokens: int
    seed: int

    def __call__(self, number: int) -> str:
        own = _sentences(random.Random(f"{self.seed} prompt {number}"), self.num_tokens)
        prefix = _sentences(random.Random(f"{self.seed} prefix"), self.shared_prefix_tokens)
        return f"{prefix} {own}".strip()


def _sentences(rng: random.Random, num_tokens: int) -> str:
    words: list[str] = []
    length = 0
    while length < num_tokens:
        sentence = _sentence(rng)[: num_tokens - length]
        length += len(sentence) + 1
        words += sentence
        words[-1] += "."
    return " ".join(words)


def _sentence(rng: random.Random) -> list[str]:
    pick = rng.choice
    return [
        "The", pick(ADJECTIVES), pick(NOUNS), pick(VERBS),
        "the", pick(ADJECTIVES), pick(NOUNS), pick(PREPOSITIONS), "the", pick(NOUNS),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class FilePrompts:
    """The lines of a file, from the first again after the last."""

    prompts: list[Prompt]

    def __call__(self, number: int) -> Prompt:
        return self.prompts[number % len(self.prompts)]

    @classmethod
    def read(cls, path: Path, api: Literal["completions", "chat"]) -> "FilePrompts":
        """Raises `BenchError` naming file and line when a line cannot be used."""
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BenchError(f"--prompts {path}: {error}") from error
        prompts = [
            _parse_line(line, f"{path}:{number}", api)
            for number, line in zip(count(1), lines, strict=False)
            if line.strip()
        ]
        if not prompts:
            raise BenchError(f"--prompts {path}: the file has no prompt")
        return cls(prompts)


def _parse_line(line: str, place: str, api: Literal["completions", "chat"]) -> Prompt:
    if not line.lstrip().startswith("{"):
        return line
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BenchError(f"{place}: {error}") from error
    key = "messages" if api == "chat" else "prompt"
    prompt = value.get(key, value.get("prompt"))
    if isinstance(prompt, str) or (isinstance(prompt, list) and key in value):
        return prompt
    allowed = '"messages" (a list) or "prompt" (text)' if api == "chat" else '"prompt"'
    raise BenchError(f"{place}: the object needs {allowed} for --api {api}")
