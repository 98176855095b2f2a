"""Anthropic's turns as OpenAI's messages, which chat templates are rendered from."""

import json
from collections.abc import Iterator, Sequence

from headrace.api.anthropic.schemas import ContentBlock, CountTokensRequest, InputMessage
from headrace.api.openai.schemas import ChatMessage, ContentPart
from headrace.api.openai.tools import FunctionCall, ToolCallMessage
from headrace.errors import ValidationError


def chat_messages(body: CountTokensRequest) -> list[ChatMessage]:
    """The system prompt as the first message, then the turns. Raises ValidationError."""
    if not body.messages:
        raise ValidationError("`messages` must not be empty")
    messages = [
        message
        for number, turn in enumerate(body.messages)
        for message in _messages_of(turn, f"messages[{number}].content")
    ]
    if not body.system:
        return messages
    return [ChatMessage(role="system", content=_text(body.system, "system")), *messages]


def _messages_of(turn: InputMessage, where: str) -> Iterator[ChatMessage]:
    if isinstance(turn.content, str):
        yield ChatMessage(role=turn.role, content=turn.content)
    elif turn.role == "assistant":
        yield _assistant(turn.content, where)
    else:
        yield from _results_and_text(turn.content, where)


def _assistant(blocks: Sequence[ContentBlock], where: str) -> ChatMessage:
    calls = [_call(block, where) for block in blocks if block.type == "tool_use"]
    thinking = "".join(block.thinking or "" for block in blocks if block.type == "thinking")
    said = [block for block in blocks if block.type not in ("tool_use", "thinking")]
    return ChatMessage(
        role="assistant",
        content=_text(said, where) if said or not calls else None,
        tool_calls=calls or None,
        reasoning_content=thinking or None,
    )


def _call(block: ContentBlock, where: str) -> ToolCallMessage:
    if block.id is None or block.name is None or block.input is None:
        raise ValidationError(f"`{where}`: a tool_use block needs `id`, `name` and `input`")
    function = FunctionCall(name=block.name, arguments=block.input)
    return ToolCallMessage(id=block.id, function=function)


def _results_and_text(blocks: Sequence[ContentBlock], where: str) -> Iterator[ChatMessage]:
    """Results are messages of their own; what the user adds follows them."""
    for block in blocks:
        if block.type == "tool_result":
            yield _result(block, where)
    said = [block for block in blocks if block.type != "tool_result"]
    if said or not blocks:
        yield ChatMessage(role="user", content=_text(said, where))


def _result(block: ContentBlock, where: str) -> ChatMessage:
    if block.tool_use_id is None:
        raise ValidationError(f"`{where}`: a tool_result block needs `tool_use_id`")
    content = block.content or ""
    text = content if isinstance(content, str) else _joined(content, f"{where}.content")
    if block.is_error:
        text = json.dumps({"error": text}, ensure_ascii=False)
    return ChatMessage(role="tool", content=text, tool_call_id=block.tool_use_id)


def _text(content: str | Sequence[ContentBlock], where: str) -> str | list[ContentPart]:
    if isinstance(content, str):
        return content
    _check_text(content, where)
    return [ContentPart(type="text", text=block.text) for block in content]


def _joined(content: Sequence[ContentBlock], where: str) -> str:
    _check_text(content, where)
    return "".join(block.text or "" for block in content)


def _check_text(content: Sequence[ContentBlock], where: str) -> None:
    for block in content:
        if block.type != "text" or block.text is None:
            raise ValidationError(
                f'`{where}` supports blocks with `type` "text" and a `text` only, tool_use and '
                f'thinking of the assistant, and tool_result of the user. Given: "{block.type}"'
            )
