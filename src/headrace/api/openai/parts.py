"""The parts that OpenAI's answers share: heads, usage, timings, chunks."""

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from headrace import __version__
from headrace.api.compute_headers import total_time
from headrace.api.errors import to_openai_event
from headrace.api.events import frame
from headrace.api.openai.conventions import Conventions, conventions_of
from headrace.api.service import Service
from headrace.errors import HeadraceError
from headrace.text.generation import Finish


def served_name(service: Service, model: str | None) -> str:
    """What answers call the model: as the client does, or by its own name."""
    return service.model.model_id if model in (None, "tgi") else model


def head(service: Service, kind: str, id_prefix: str, model: str | None) -> dict[str, Any]:
    """The fields that come first in every object of one answer."""
    has_id = conventions_of(service.settings).has_ids
    return {
        "object": kind,
        "id": f"{id_prefix}-{uuid.uuid4().hex}" if has_id else "",
        "created": int(time.time()),
        "model": served_name(service, model),
        "system_fingerprint": f"{__version__}-native",
    }


def timings_object(
    num_prompt_tokens: int, num_cached_tokens: int, finishes: Sequence[Finish]
) -> dict[str, Any]:
    """llama.cpp's `timings`: where the answer's time went, in milliseconds.

    `prompt_n` tokens were computed, `cache_n` came from the prefix cache; of `draft_n` drafted
    tokens, verified in `draft_steps_n` steps, `draft_n_accepted` were right, and a grammar forced
    `forced_n`. Of several sequences counts are added up, the times are those of the slowest.
    """
    timings = max(finishes, key=total_time).timings
    num_computed_tokens = num_prompt_tokens - num_cached_tokens
    num_predicted_tokens = sum(finish.num_tokens for finish in finishes)
    return {
        "queue_ms": 1000 * timings.queue_time,
        "cache_n": num_cached_tokens,
        **_pace("prompt", num_computed_tokens, timings.prefill_time),
        **_pace("predicted", num_predicted_tokens, timings.decode_time),
        "draft_n": sum(finish.timings.num_draft_tokens for finish in finishes),
        "draft_n_accepted": sum(finish.timings.num_accepted_tokens for finish in finishes),
        "draft_steps_n": sum(finish.timings.num_draft_steps for finish in finishes),
        "forced_n": sum(finish.timings.num_forced_tokens for finish in finishes),
    }


def _pace(name: str, num_tokens: int, seconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": num_tokens,
        f"{name}_ms": 1000 * seconds,
        f"{name}_per_token_ms": 1000 * seconds / num_tokens if num_tokens else None,
        f"{name}_per_second": num_tokens / seconds if seconds else None,
    }


class Usage:
    """Adds up the tokens of one answer; a prompt counts once however many sequences it has."""

    def __init__(self) -> None:
        self._prompt_tokens: dict[int, int] = {}
        self._cached_tokens: dict[int, int] = {}
        self.finishes: list[Finish] = []
        """Of all sequences so far."""

    @property
    def prompt_tokens(self) -> int:
        return sum(self._prompt_tokens.values())

    @property
    def cached_tokens(self) -> int:
        return sum(self._cached_tokens.values())

    def add_prompt(self, prompt: int, num_tokens: int) -> None:
        """`prompt` is its place in the request."""
        self._prompt_tokens[prompt] = num_tokens

    def add_finish(self, prompt: int, finish: Finish) -> None:
        """Count a finished sequence of a prompt; the first to finish tells what was cached."""
        self._cached_tokens.setdefault(prompt, finish.timings.num_cached_tokens)
        self.finishes.append(finish)

    def to_json(self) -> dict[str, Any]:
        """OpenAI's `usage`."""
        completion_tokens = sum(finish.num_tokens for finish in self.finishes)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def of(self, prompt: int, finish: Finish) -> dict[str, Any]:
        """OpenAI's `usage` of one sequence of a prompt."""
        return usage_of([(0, self._prompt_tokens[prompt], finish)]).to_json()

    def timings(self) -> dict[str, Any]:
        """Of the whole answer."""
        return timings_object(self.prompt_tokens, self.cached_tokens, self.finishes)

    def timings_of(self, prompt: int, finish: Finish) -> dict[str, Any]:
        """Of one sequence of a prompt."""
        num_cached_tokens = finish.timings.num_cached_tokens
        return timings_object(self._prompt_tokens[prompt], num_cached_tokens, [finish])


def usage_of(finished: Iterable[tuple[int, int, Finish]]) -> Usage:
    """The usage of a whole answer, out of (prompt, its length, finish) per sequence."""
    usage = Usage()
    for prompt, num_tokens, finish in finished:
        usage.add_prompt(prompt, num_tokens)
        usage.add_finish(prompt, finish)
    return usage


class ChunkEncoder:
    """What chat and completion streams have in common."""

    def __init__(
        self, chunk_head: dict[str, Any], conventions: Conventions, *, with_usage: bool
    ) -> None:
        self.usage = Usage()
        self.conventions = conventions
        self._head = chunk_head
        self._with_usage = with_usage

    def chunk(
        self,
        choice: dict[str, Any],
        prompt: int,
        finish: Finish | None,
        *,
        with_usage: bool = False,
    ) -> bytes:
        """The event for one choice, a sequence of `prompt`; the last one has its timings, and
        perhaps its usage."""
        chunk = {**self._head, "choices": [choice], "usage": None}
        if finish is not None:
            self.usage.add_finish(prompt, finish)
            chunk["timings"] = self.usage.timings_of(prompt, finish)
            if with_usage:
                chunk["usage"] = self.usage.of(prompt, finish)
        return frame(orjson.dumps(chunk))

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
