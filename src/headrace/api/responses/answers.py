"""The `response` object, from its creation to its end."""

import time
import uuid
from typing import Any

from headrace.api.errors import message_of
from headrace.api.openai.parts import timings_object
from headrace.api.responses.items import Items
from headrace.api.responses.schemas import ResponsesRequest
from headrace.api.segments import ReplySegments
from headrace.errors import HeadraceError
from headrace.text.generation import Finish


class ResponseObject:
    """One answer: what the request asked for, and the reply's items."""

    def __init__(self, body: ResponsesRequest, model: str, items: Items) -> None:
        self.items = items
        self._base: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "metadata": body.metadata or {},
            "user": body.user,
            "text": {"format": _format_object(body)},
            "store": False,
            "background": False,
            "previous_response_id": None,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "service_tier": "default",
            "truncation": "disabled",
            **_tool_fields(body),
        }

    def in_progress(self) -> dict[str, Any]:
        """Before its end."""
        return self._state("in_progress", [])

    def failed(self, error: HeadraceError) -> dict[str, Any]:
        """It broke off."""
        details = {"code": "server_error", "message": message_of(error)}
        return self._state("failed", []) | {"error": details}

    def finished(self, reply: ReplySegments, finish: Finish) -> dict[str, Any]:
        """It is complete, or ended at the limit of its length."""
        prompt = reply.prompt
        last = len(reply.segments) - 1
        output = [
            self.items.item(index, segment, status_of(reply, is_last=index == last))
            for index, segment in enumerate(reply.segments)
        ]
        return {
            **self._state(status_of(reply, is_last=True), output),
            "incomplete_details": {"reason": "max_output_tokens"} if reply.is_cut else None,
            "usage": _usage(reply, finish),
            "timings": timings_object(prompt.num_tokens, prompt.num_cached_tokens, [finish]),
        }

    def _state(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **self._base,
            "status": status,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "usage": None,
        }


def status_of(reply: ReplySegments, *, is_last: bool) -> str:
    """Of an item that has ended; only the last one can have been cut."""
    return "incomplete" if is_last and reply.is_cut else "completed"


def _format_object(body: ResponsesRequest) -> dict[str, Any]:
    if body.text is None or body.text.format is None:
        return {"type": "text"}
    return body.text.format.model_dump(by_alias=True, exclude_unset=True)


def _tool_fields(body: ResponsesRequest) -> dict[str, Any]:
    """What was asked for, as clients expect to read it."""
    choice = body.tool_choice or "auto"
    effort = None if body.reasoning is None else body.reasoning.effort
    return {
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "reasoning": {"effort": effort, "summary": None},
    }


def _usage(reply: ReplySegments, finish: Finish) -> dict[str, Any]:
    prompt = reply.prompt
    return {
        "input_tokens": prompt.num_tokens,
        "input_tokens_details": {
            "cached_tokens": prompt.num_cached_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": finish.num_tokens,
        "output_tokens_details": {"reasoning_tokens": reply.num_reasoning_tokens},
        "total_tokens": prompt.num_tokens + finish.num_tokens,
    }
