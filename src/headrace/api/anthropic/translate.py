"""Anthropic's fields as those of an OpenAI chat request, which the front end's terms come from."""

from collections.abc import Sequence

from headrace.api.anthropic.schemas import ContentBlock, CountTokensRequest, MessagesRequest
from headrace.api.openai.schemas import ChatMessage, ChatRequest, ContentPart
from headrace.errors import ValidationError


def _content(content: str | Sequence[ContentBlock], where: str) -> str | list[ContentPart]:
    if isinstance(content, str):
        return content
    for block in content:
        if block.type != "text" or block.text is None:
            raise ValidationError(
                f'`{where}` supports blocks with `type` "text" and a `text` only. '
                f'Given: `type` "{block.type}"'
            )
    return [ContentPart(type="text", text=block.text) for block in content]


def chat_messages(body: CountTokensRequest) -> list[ChatMessage]:
    """The system prompt as the first message, then the turns. Raises ValidationError."""
    if not body.messages:
        raise ValidationError("`messages` must not be empty")
    messages = [
        ChatMessage(
            role=message.role, content=_content(message.content, f"messages[{number}].content")
        )
        for number, message in enumerate(body.messages)
    ]
    if not body.system:
        return messages
    return [ChatMessage(role="system", content=_content(body.system, "system")), *messages]


def chat_request(body: MessagesRequest) -> ChatRequest:
    """Raises ValidationError."""
    return ChatRequest(
        model=body.model,
        messages=chat_messages(body),
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        # Zero is "not asked for" to Anthropic's clients, and an error in TGI's rules.
        top_k=body.top_k or None,
        stop=body.stop_sequences,
        stream=body.stream,
    )
