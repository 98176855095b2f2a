"""Chat messages of a request, in the form that chat templates expect."""

import json
from typing import Any

from headrace.api.openai.schemas import ChatMessage, ChatRequest
from headrace.api.openai.tools import ToolCallMessage
from headrace.errors import ValidationError


def template_messages(body: ChatRequest) -> list[dict[str, Any]]:
    """Content is text, arguments of tool calls are dicts. Raises ValidationError."""
    return [_entry(message, f"messages[{i}]") for i, message in enumerate(body.messages)]


def _entry(message: ChatMessage, where: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": _content(message, where)}
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            entry[name] = value
    if message.tool_calls:
        entry["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)
        ]
    return entry


def _content(message: ChatMessage, where: str) -> str:
    if message.content is None:
        if message.tool_calls:
            return ""
        raise ValidationError(f"`{where}.content` must be a string or a list of parts")
    if isinstance(message.content, str):
        return message.content
    for part in message.content:
        if part.type != "text" or part.text is None:
            raise ValidationError(
                f'`{where}.content` supports parts with `type` "text" and a `text` only. '
                f'Given: `type` "{part.type}"'
            )
    return "".join(part.text or "" for part in message.content)


def _call(call: ToolCallMessage, where: str) -> dict[str, Any]:
    arguments = call.function.arguments
    if arguments is None:
        arguments = call.function.parameters
    if not isinstance(arguments, dict):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ValidationError(f"`{where}.function.arguments` must be a JSON object")
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
