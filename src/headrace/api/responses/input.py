"""The Responses API's items as chat messages."""

from collections.abc import Sequence

from headrace.api.openai.schemas import ChatMessage
from headrace.api.openai.tools import FunctionCall, ToolCallMessage
from headrace.api.responses.schemas import InputContent, InputItem, ResponsesRequest
from headrace.errors import ValidationError

TEXT_TYPES = {"input_text", "output_text", "reasoning_text"}


def chat_messages(body: ResponsesRequest) -> list[ChatMessage]:
    """The instructions as the first message, then the input. Raises ValidationError."""
    if not body.input:
        raise ValidationError("`input` must not be empty")
    if isinstance(body.input, str):
        messages = [ChatMessage(role="user", content=body.input)]
    else:
        messages = []
        for number, item in enumerate(body.input):
            _append(messages, item, f"input[{number}]")
    if not body.instructions:
        return messages
    return [ChatMessage(role="system", content=body.instructions), *messages]


def _append(messages: list[ChatMessage], item: InputItem, where: str) -> None:
    """Add an item; what the assistant thought, said and called one after another is one message."""
    message = _message(item, where)
    last = messages[-1] if messages else None
    if last is not None and _is_one_turn(last, message):
        messages[-1] = _merged(last, message)
    else:
        messages.append(message)


def _is_one_turn(first: ChatMessage, second: ChatMessage) -> bool:
    """Reasoning goes before text, text before calls."""
    has_begun = bool(first.content or first.tool_calls)
    is_assistant = first.role == second.role == "assistant"
    return is_assistant and (bool(second.tool_calls) or not has_begun)


def _merged(first: ChatMessage, second: ChatMessage) -> ChatMessage:
    return ChatMessage(
        role="assistant",
        content=second.content or first.content,
        tool_calls=[*(first.tool_calls or ()), *(second.tool_calls or ())] or None,
        reasoning_content=first.reasoning_content or second.reasoning_content,
    )


def _message(item: InputItem, where: str) -> ChatMessage:
    match item.type:
        case "function_call":
            return _call(item, where)
        case "function_call_output":
            return _call_output(item, where)
        case "reasoning":
            thoughts = _text(item.content, f"{where}.content")
            return ChatMessage(role="assistant", content="", reasoning_content=thoughts)
        case "message" if item.role is not None:
            return _said(item, item.role, where)
    raise ValidationError(
        f"`{where}` must be a message with a `role`, or have `type` function_call, "
        f'function_call_output or reasoning. Given: `type` "{item.type}"'
    )


def _said(item: InputItem, role: str, where: str) -> ChatMessage:
    # Templates know the older name only.
    template_role = "system" if role == "developer" else role
    return ChatMessage(role=template_role, content=_text(item.content, f"{where}.content"))


def _call(item: InputItem, where: str) -> ChatMessage:
    if item.call_id is None or item.name is None or item.arguments is None:
        raise ValidationError(f"`{where}`: a call needs `call_id`, `name` and `arguments`")
    function = FunctionCall(name=item.name, arguments=item.arguments)
    return ChatMessage(
        role="assistant", tool_calls=[ToolCallMessage(id=item.call_id, function=function)]
    )


def _call_output(item: InputItem, where: str) -> ChatMessage:
    if item.call_id is None or item.output is None:
        raise ValidationError(f"`{where}`: a call's output needs `call_id` and `output`")
    output = _text(item.output, f"{where}.output")
    return ChatMessage(role="tool", content=output, tool_call_id=item.call_id)


def _text(content: str | Sequence[InputContent] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in TEXT_TYPES or part.text is None:
            raise ValidationError(
                f"`{where}` supports parts with a `text` only, of the types "
                f'{", ".join(sorted(TEXT_TYPES))}. Given: "{part.type}"'
            )
    return "".join(part.text or "" for part in content)
