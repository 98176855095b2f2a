"""Output items: what a reply's segments are called in the Responses API."""

import uuid
from collections.abc import Sequence
from typing import Any

from headrace.api.openai.chat import logprobs_object
from headrace.api.segments import CallSegment, ReasoningSegment, Segment, TextSegment
from headrace.text.generation import TokenText

PREFIXES = {TextSegment: "msg", ReasoningSegment: "rs", CallSegment: "fc"}


class Items:
    """The items of one response, with ids that stay the same from their beginning to their end."""

    def __init__(self, *, with_logprobs: bool) -> None:
        self._with_logprobs = with_logprobs
        self._ids: list[str] = []

    def id_of(self, index: int, segment: Segment) -> str:
        """Items are asked for in their order."""
        if index == len(self._ids):
            self._ids.append(f"{PREFIXES[type(segment)]}_{uuid.uuid4().hex}")
        return self._ids[index]

    def logprobs(self, tokens: Sequence[TokenText]) -> list[dict[str, Any]]:
        """As asked for; else empty."""
        content: list[dict[str, Any]] = logprobs_object(tokens)["content"]
        return content if self._with_logprobs else []

    def part(self, segment: TextSegment | ReasoningSegment) -> dict[str, Any]:
        """The only part of a message's or reasoning's content, as it is so far."""
        if isinstance(segment, ReasoningSegment):
            return {"type": "reasoning_text", "text": segment.text}
        logprobs = self.logprobs(segment.tokens)
        return {"type": "output_text", "text": segment.text, "annotations": [],
                "logprobs": logprobs}  # fmt: skip

    def item(self, index: int, segment: Segment, status: str) -> dict[str, Any]:
        """The item as it is so far; while it is in progress its content is empty."""
        head = {"id": self.id_of(index, segment), "status": status}
        if isinstance(segment, CallSegment):
            return {"type": "function_call", **head, "call_id": segment.id, "name": segment.name,
                    "arguments": segment.text}  # fmt: skip
        content = [] if status == "in_progress" else [self.part(segment)]
        if isinstance(segment, ReasoningSegment):
            return {"type": "reasoning", **head, "summary": [], "content": content}
        return {"type": "message", **head, "role": "assistant", "content": content}
