"""The typed events of a streamed response, numbered in order."""

from typing import Any

from headrace.api.events import named_frame
from headrace.api.responses.answers import ResponseObject, status_of
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
from headrace.text.generation import TextDelta

NAMES = {
    TextSegment: "output_text",
    ReasoningSegment: "reasoning_text",
    CallSegment: "function_call_arguments",
}


class ResponseEncoder:
    """One stream: the response begins, item after item with its parts and its text, it ends."""

    def __init__(self, response: ResponseObject, reply: ReplySegments) -> None:
        self._response = response
        self._reply = reply
        self._number = 0

    def delta(self, delta: TextDelta) -> bytes:
        events = b""
        if delta.prompt is not None:
            response = self._response.in_progress()
            events += self._event("created", response=response)
            events += self._event("in_progress", response=response)
        events += b"".join(map(self._change, self._reply.update(delta)))
        if delta.finish is not None:
            response = self._response.finished(self._reply, delta.finish)
            events += self._event(response["status"], response=response)
        return events

    def end(self) -> bytes:
        return b""

    def error(self, error: HeadraceError) -> bytes:
        return self._event("failed", response=self._response.failed(error))

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        event = {"type": f"response.{kind}", "sequence_number": self._number, **fields}
        self._number += 1
        return named_frame(event)

    def _change(self, change: Change) -> bytes:
        match change:
            case Begin(index, segment):
                return self._begin(index, segment)
            case Grow(index, segment):
                return self._grow(change, self._place(index, segment))
            case End(index, segment):
                return self._end(index, segment)

    def _place(self, index: int, segment: Segment) -> dict[str, Any]:
        """Where an event belongs; all but calls have one part."""
        place = {"item_id": self._response.items.id_of(index, segment), "output_index": index}
        return place if isinstance(segment, CallSegment) else place | {"content_index": 0}

    def _begin(self, index: int, segment: Segment) -> bytes:
        items = self._response.items
        item = items.item(index, segment, "in_progress")
        added = self._event("output_item.added", output_index=index, item=item)
        if isinstance(segment, CallSegment):
            return added
        part = items.part(segment)
        return added + self._event("content_part.added", **self._place(index, segment), part=part)

    def _grow(self, change: Grow, place: dict[str, Any]) -> bytes:
        name, fields = f"{NAMES[type(change.segment)]}.delta", {"delta": change.text}
        if not isinstance(change.segment, TextSegment):
            return self._event(name, **place, **fields)
        logprobs = self._response.items.logprobs(change.tokens)
        return self._event(name, **place, **fields, logprobs=logprobs)

    def _end(self, index: int, segment: Segment) -> bytes:
        place = self._place(index, segment)
        items, name = self._response.items, f"{NAMES[type(segment)]}.done"
        if isinstance(segment, CallSegment):
            done = self._event(name, **place, name=segment.name, arguments=segment.text)
        else:
            part = items.part(segment)
            logprobs = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
            done = self._event(name, **place, text=segment.text, **logprobs)
            done += self._event("content_part.done", **place, part=part)
        status = status_of(self._reply, is_last=self._reply.finish is not None)
        item = items.item(index, segment, status)
        return done + self._event("output_item.done", output_index=index, item=item)
