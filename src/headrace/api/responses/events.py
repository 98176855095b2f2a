"""The typed events of a streamed response, numbered in order."""

from typing import Any

from headrace.api.events import named_frame
from headrace.api.responses.answers import ResponseObject
from headrace.errors import HeadraceError
from headrace.text.generation import Finish, PromptInfo, TextDelta, TokenText

IN_ITEM = {"output_index": 0}


class ResponseEncoder:
    """One stream: the response begins, its only item and part begin, text, and all of them end."""

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._in_part = {"item_id": response.message_id, "output_index": 0, "content_index": 0}
        self._number = 0
        self._prompt = PromptInfo(0)
        self._tokens: list[TokenText] = []

    def delta(self, delta: TextDelta) -> bytes:
        events = b""
        if delta.prompt is not None:
            self._prompt = delta.prompt
            events += self._begin()
        self._tokens += delta.tokens
        if delta.text:
            logprobs = self._response.logprobs(delta.tokens)
            events += self._event(
                "output_text.delta", self._in_part, delta=delta.text, logprobs=logprobs
            )
        if delta.finish is not None:
            events += self._finish(delta.finish)
        return events

    def end(self) -> bytes:
        return b""

    def error(self, error: HeadraceError) -> bytes:
        return self._event("failed", response=self._response.failed(error))

    def _event(self, name: str, place: dict[str, Any] | None = None, **fields: Any) -> bytes:
        event = {
            "type": f"response.{name}",
            "sequence_number": self._number,
            **(place or {}),
            **fields,
        }
        self._number += 1
        return named_frame(event)

    def _begin(self) -> bytes:
        response = self._response
        return (
            self._event("created", response=response.in_progress())
            + self._event("in_progress", response=response.in_progress())
            + self._event("output_item.added", IN_ITEM, item=response.message([], "in_progress"))
            + self._event("content_part.added", self._in_part, part=response.part("", []))
        )

    def _finish(self, finish: Finish) -> bytes:
        response = self._response.finished(self._prompt, finish.text, self._tokens, finish)
        (item,) = response["output"]
        (part,) = item["content"]
        return (
            self._event(
                "output_text.done", self._in_part, text=part["text"], logprobs=part["logprobs"]
            )
            + self._event("content_part.done", self._in_part, part=part)
            + self._event("output_item.done", IN_ITEM, item=item)
            + self._event(response["status"], response=response)
        )
