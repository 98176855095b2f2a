"""The parts that OpenAI's answers share: heads, finish reasons, usage, chunks."""

import time
import uuid
from collections.abc import Iterable
from typing import Any

import orjson

from headrace import __version__
from headrace.api.errors import to_openai_event
from headrace.api.events import frame
from headrace.api.service import Service
from headrace.errors import HeadraceError
from headrace.text.generation import Finish
from headrace.types import FinishReason

FINISH_REASONS = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS_TOKEN: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
}


def head(service: Service, kind: str, id_prefix: str, model: str | None) -> dict[str, Any]:
    """The fields that come first in every object of one answer."""
    return {
        "object": kind,
        "id": f"{id_prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": service.model.model_id if model in (None, "tgi") else model,
        "system_fingerprint": f"{__version__}-native",
    }


def finish_reason(finish: Finish | None) -> str | None:
    """OpenAI's name for it."""
    return None if finish is None else FINISH_REASONS[finish.reason]


class Usage:
    """Adds up the tokens of one answer; a prompt counts once however many sequences it has."""

    def __init__(self) -> None:
        self._prompt_tokens: dict[int, int] = {}
        self._cached_tokens: dict[int, int] = {}
        self._completion_tokens = 0

    @property
    def prompt_tokens(self) -> int:
        return sum(self._prompt_tokens.values())

    def add_prompt(self, prompt: int, num_tokens: int) -> None:
        """`prompt` is its place in the request."""
        self._prompt_tokens[prompt] = num_tokens

    def add_finish(self, prompt: int, finish: Finish) -> None:
        """Count a finished sequence of a prompt; the first to finish tells what was cached."""
        self._cached_tokens.setdefault(prompt, finish.timings.num_cached_tokens)
        self._completion_tokens += finish.num_tokens

    def to_json(self) -> dict[str, Any]:
        """OpenAI's `usage`."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self.prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached_tokens.values())},
        }


def usage_of(finished: Iterable[tuple[int, int, Finish]]) -> Usage:
    """The usage of a whole answer, out of (prompt, its length, finish) per sequence."""
    usage = Usage()
    for prompt, num_tokens, finish in finished:
        usage.add_prompt(prompt, num_tokens)
        usage.add_finish(prompt, finish)
    return usage


class ChunkEncoder:
    """What chat and completion streams have in common."""

    def __init__(self, chunk_head: dict[str, Any], *, with_usage: bool) -> None:
        self.usage = Usage()
        self._head = chunk_head
        self._with_usage = with_usage

    def chunk(self, choice: dict[str, Any]) -> bytes:
        """The event for one choice."""
        return frame(orjson.dumps({**self._head, "choices": [choice], "usage": None}))

    def end(self) -> bytes:
        """The usage, if it was asked for, and the end mark."""
        done = frame(b"[DONE]")
        if not self._with_usage:
            return done
        last = {**self._head, "choices": [], "usage": self.usage.to_json()}
        return frame(orjson.dumps(last)) + done

    def error(self, error: HeadraceError) -> bytes:
        """What went wrong, and the end mark."""
        return frame(to_openai_event(error)) + frame(b"[DONE]")
