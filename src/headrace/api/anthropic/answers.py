"""What the Messages API answers: one message, or its typed events."""

import uuid
from typing import Any

from headrace.api.anthropic.errors import error_object
from headrace.api.events import named_frame
from headrace.errors import HeadraceError
from headrace.text.generation import Finish, Generation, PromptInfo, TextDelta
from headrace.types import FinishReason

STOP_REASONS = {
    FinishReason.LENGTH: "max_tokens",
    FinishReason.EOS_TOKEN: "end_turn",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
}


def usage_object(prompt: PromptInfo, num_output_tokens: int) -> dict[str, int]:
    """Anthropic's `usage`: `input_tokens` are those that the prefix cache did not have."""
    return {
        "input_tokens": prompt.num_tokens - prompt.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": prompt.num_cached_tokens,
        "output_tokens": num_output_tokens,
    }


def _stop(finish: Finish | None) -> dict[str, Any]:
    if finish is None:
        return {"stop_reason": None, "stop_sequence": None}
    return {"stop_reason": STOP_REASONS[finish.reason], "stop_sequence": finish.stop}


def message_object(
    model: str, content: list[dict[str, Any]], usage: dict[str, int], finish: Finish | None
) -> dict[str, Any]:
    """Anthropic's `message`, with a new id."""
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        **_stop(finish),
        "usage": usage,
    }


def text_block(text: str) -> dict[str, Any]:
    """A content block."""
    return {"type": "text", "text": text}


def whole_message(model: str, generation: Generation) -> dict[str, Any]:
    """The non-streaming answer."""
    usage = usage_object(generation.prompt, generation.finish.num_tokens)
    return message_object(model, [text_block(generation.text)], usage, generation.finish)


class MessageEncoder:
    """The events of one stream: a message with one text block."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._prompt = PromptInfo(0)

    def delta(self, delta: TextDelta) -> bytes:
        events: list[dict[str, Any]] = []
        if delta.prompt is not None:
            self._prompt = delta.prompt
            events += self._begin()
        if delta.text:
            text = {"type": "text_delta", "text": delta.text}
            events.append({"type": "content_block_delta", "index": 0, "delta": text})
        if delta.finish is not None:
            events += self._finish(delta.finish)
        return b"".join(map(named_frame, events))

    def end(self) -> bytes:
        return b""

    def error(self, error: HeadraceError) -> bytes:
        return named_frame(error_object(error))

    def _begin(self) -> list[dict[str, Any]]:
        message = message_object(self._model, [], usage_object(self._prompt, 0), None)
        return [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": text_block("")},
            {"type": "ping"},
        ]

    def _finish(self, finish: Finish) -> list[dict[str, Any]]:
        usage = usage_object(self._prompt, finish.num_tokens)
        return [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": _stop(finish), "usage": usage},
            {"type": "message_stop"},
        ]
