"""The `response` object, from its creation to its end."""

import time
import uuid
from collections.abc import Iterable
from typing import Any

from headrace.api.errors import message_of
from headrace.api.openai.chat import logprobs_object
from headrace.api.openai.parts import timings_object
from headrace.api.responses.schemas import ResponsesRequest
from headrace.errors import HeadraceError
from headrace.text.generation import Finish, PromptInfo, TokenText
from headrace.types import FinishReason


class ResponseObject:
    """One answer: a message with one text part."""

    def __init__(self, body: ResponsesRequest, model: str, *, with_logprobs: bool) -> None:
        self._message_id = f"msg_{uuid.uuid4().hex}"
        self._with_logprobs = with_logprobs
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
            "text": {"format": {"type": "text"}},
            "store": False,
            "background": False,
            "previous_response_id": None,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "tool_choice": body.tool_choice or "auto",
            "tools": [],
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "truncation": "disabled",
        }

    @property
    def message_id(self) -> str:
        """The id of its only output item."""
        return self._message_id

    def logprobs(self, tokens: Iterable[TokenText]) -> list[dict[str, Any]]:
        """As asked for; else empty."""
        content: list[dict[str, Any]] = logprobs_object(tokens)["content"]
        return content if self._with_logprobs else []

    def part(self, text: str, tokens: Iterable[TokenText]) -> dict[str, Any]:
        """The message's text part."""
        logprobs = self.logprobs(tokens)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def message(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        """The output item."""
        message_id = self._message_id
        return {"type": "message", "id": message_id, "status": status, "role": "assistant",
                "content": content}  # fmt: skip

    def in_progress(self) -> dict[str, Any]:
        """Before its end."""
        return self._state("in_progress", [])

    def failed(self, error: HeadraceError) -> dict[str, Any]:
        """It broke off."""
        details = {"code": "server_error", "message": message_of(error)}
        return self._state("failed", []) | {"error": details}

    def finished(
        self, prompt: PromptInfo, text: str, tokens: Iterable[TokenText], finish: Finish
    ) -> dict[str, Any]:
        """It is complete, or ended at the limit of its length."""
        is_cut = finish.reason is FinishReason.LENGTH
        status = "incomplete" if is_cut else "completed"
        return {
            **self._state(status, [self.message([self.part(text, tokens)], status)]),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": _usage(prompt, finish),
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


def _usage(prompt: PromptInfo, finish: Finish) -> dict[str, Any]:
    return {
        "input_tokens": prompt.num_tokens,
        "input_tokens_details": {
            "cached_tokens": prompt.num_cached_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": finish.num_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt.num_tokens + finish.num_tokens,
    }
