"""What TGI's generation routes answer: one body, or an event per token."""

from collections.abc import Iterable
from typing import Any

import orjson

from headrace.api.errors import to_tgi_event
from headrace.api.events import frame
from headrace.errors import HeadraceError
from headrace.text.generation import Finish, Generation, TextDelta, TokenText


def token_object(token: TokenText) -> dict[str, Any]:
    """TGI's `Token`."""
    return {
        "id": token.id,
        "text": token.text,
        "logprob": token.logprob,
        "special": token.special,
    }


def _sequence(generation: Generation) -> dict[str, Any]:
    finish = generation.finish
    return {
        "finish_reason": finish.reason,
        "generated_tokens": finish.num_tokens,
        "seed": finish.seed,
        "prefill": [
            {"id": token.id, "text": token.text, "logprob": token.logprob}
            for token in generation.prompt.tokens
        ],
        "tokens": [token_object(token) for token in generation.tokens],
    }


def _top_tokens(tokens: Iterable[TokenText]) -> list[list[dict[str, Any]]]:
    return [[token_object(candidate) for candidate in token.top] for token in tokens]


def details_object(
    best: Generation, others: list[Generation], full_text_of: str, *, with_top_tokens: bool
) -> dict[str, Any]:
    """TGI's `Details`; absent lists are left out as TGI does."""
    details = _sequence(best)
    if others:
        details["best_of_sequences"] = [
            {"generated_text": full_text_of + other.text, **_sequence(other)}
            | ({"top_tokens": _top_tokens(other.tokens)} if with_top_tokens else {})
            for other in others
        ]
    if with_top_tokens:
        details["top_tokens"] = _top_tokens(best.tokens)
    return details


class TokenEncoder:
    """The events of one native stream."""

    def __init__(self, *, details: bool, full_text_of: str) -> None:
        self._details = details
        self._full_text_of = full_text_of
        self._index = 0
        self._input_length = 0

    def delta(self, delta: TextDelta) -> bytes:
        if delta.prompt is not None:
            self._input_length = delta.prompt.num_tokens
        last = len(delta.tokens) - 1
        return b"".join(
            self._event(token, delta.finish if position == last else None)
            for position, token in enumerate(delta.tokens)
        )

    def end(self) -> bytes:
        return b""

    def error(self, error: HeadraceError) -> bytes:
        return frame(to_tgi_event(error))

    def _event(self, token: TokenText, finish: Finish | None) -> bytes:
        self._index += 1
        event: dict[str, Any] = {"index": self._index, "token": token_object(token)}
        if token.top:
            event["top_tokens"] = [token_object(candidate) for candidate in token.top]
        event["generated_text"] = None if finish is None else self._full_text_of + finish.text
        event["details"] = None
        if finish is not None and self._details:
            event["details"] = {
                "finish_reason": finish.reason,
                "generated_tokens": finish.num_tokens,
                "seed": finish.seed,
                "input_length": self._input_length,
            }
        return frame(orjson.dumps(event))
