"""What the Messages API answers: one message, or its typed events."""

import uuid
from typing import Any

from pydantic_core import from_json

from headrace.api.anthropic.errors import error_object
from headrace.api.events import named_frame
from headrace.api.segments import (
    Begin,
    CallSegment,
    Change,
    End,
    Grow,
    ReasoningSegment,
    ReplySegments,
    Segment,
    TextSegment,
)
from headrace.errors import HeadraceError
from headrace.text.generation import PromptInfo, TextDelta
from headrace.types import FinishReason

STOP_REASONS = {
    FinishReason.LENGTH: "max_tokens",
    FinishReason.EOS_TOKEN: "end_turn",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
}
DELTAS = {
    TextSegment: ("text_delta", "text"),
    ReasoningSegment: ("thinking_delta", "thinking"),
    CallSegment: ("input_json_delta", "partial_json"),
}
"""Of a `content_block_delta` the type, and the name of its text."""


def usage_object(prompt: PromptInfo, num_output_tokens: int) -> dict[str, int]:
    """Anthropic's `usage`: `input_tokens` are those that the prefix cache did not have."""
    return {
        "input_tokens": prompt.num_tokens - prompt.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": prompt.num_cached_tokens,
        "output_tokens": num_output_tokens,
    }


def _stop(reply: ReplySegments) -> dict[str, Any]:
    if reply.finish is None:
        return {"stop_reason": None, "stop_sequence": None}
    if reply.ends_in_calls:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    return {"stop_reason": STOP_REASONS[reply.finish.reason], "stop_sequence": reply.finish.stop}


def _usage(reply: ReplySegments) -> dict[str, int]:
    return usage_object(reply.prompt, 0 if reply.finish is None else reply.finish.num_tokens)


def content_block(segment: Segment) -> dict[str, Any]:
    """A segment as it is so far."""
    match segment:
        case TextSegment(text):
            return {"type": "text", "text": text}
        case ReasoningSegment(text):
            return {"type": "thinking", "thinking": text, "signature": ""}
        case CallSegment(id, name, text):
            # Of a call that was cut there is what was complete.
            arguments = from_json(text, allow_partial=True) if text else {}
            return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def message_object(model: str, reply: ReplySegments) -> dict[str, Any]:
    """Anthropic's `message`, with a new id."""
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(map(content_block, reply.segments)),
        **_stop(reply),
        "usage": _usage(reply),
    }


def _block_event(change: Change) -> dict[str, Any]:
    index = change.index
    match change:
        case Begin(_, segment):
            block = content_block(segment)
            return {"type": "content_block_start", "index": index, "content_block": block}
        case Grow(_, segment, text):
            kind, field = DELTAS[type(segment)]
            delta = {"type": kind, field: text}
            return {"type": "content_block_delta", "index": index, "delta": delta}
        case End():
            return {"type": "content_block_stop", "index": index}


class MessageEncoder:
    """The events of one stream: the message begins, block after block, it ends."""

    def __init__(self, model: str, reply: ReplySegments) -> None:
        self._model = model
        self._reply = reply

    def delta(self, delta: TextDelta) -> bytes:
        reply = self._reply
        events: list[dict[str, Any]] = []
        if delta.prompt is not None:
            reply.prompt = delta.prompt
            message = message_object(self._model, reply)
            events += [{"type": "message_start", "message": message}, {"type": "ping"}]
        events += map(_block_event, reply.update(delta))
        if delta.finish is not None:
            end = {"type": "message_delta", "delta": _stop(reply), "usage": _usage(reply)}
            events += [end, {"type": "message_stop"}]
        return b"".join(map(named_frame, events))

    def end(self) -> bytes:
        return b""

    def error(self, error: HeadraceError) -> bytes:
        return named_frame(error_object(error))
