"""The Responses API's fields as those of a chat request."""

from headrace.api.openai.schemas import ChatMessage, ChatRequest, ContentPart
from headrace.api.responses.schemas import InputItem, ResponsesRequest
from headrace.api.schema import reject_unsupported
from headrace.errors import ValidationError

TEXT_TYPES = {"input_text", "output_text"}
LOGPROBS = "message.output_text.logprobs"


def _content(item: InputItem, where: str) -> str | list[ContentPart]:
    if item.content is None or isinstance(item.content, str):
        return item.content or ""
    for part in item.content:
        if part.type not in TEXT_TYPES or part.text is None:
            raise ValidationError(
                f'`{where}.content` supports parts with `type` "input_text" or "output_text" and '
                f'a `text` only. Given: `type` "{part.type}"'
            )
    return [ContentPart(type="text", text=part.text) for part in item.content]


def _message(item: InputItem, number: int) -> ChatMessage:
    where = f"input[{number}]"
    if item.type != "message" or item.role is None:
        raise ValidationError(
            f'`{where}` must be a message with a `role`. Given: `type` "{item.type}"'
        )
    # Templates know the older name only.
    role = "system" if item.role == "developer" else item.role
    return ChatMessage(role=role, content=_content(item, where))


def chat_messages(body: ResponsesRequest) -> list[ChatMessage]:
    """The instructions as the first message, then the input. Raises ValidationError."""
    if not body.input:
        raise ValidationError("`input` must not be empty")
    if isinstance(body.input, str):
        messages = [ChatMessage(role="user", content=body.input)]
    else:
        messages = [_message(item, number) for number, item in enumerate(body.input)]
    if not body.instructions:
        return messages
    return [ChatMessage(role="system", content=body.instructions), *messages]


def wants_logprobs(body: ResponsesRequest) -> bool:
    """Log-probabilities are an extra that the client has to name."""
    return LOGPROBS in (body.include or [])


def _check(body: ResponsesRequest) -> None:
    if body.text is not None:
        reject_unsupported(body.text, {"verbosity": (None, "medium")})
    for name in body.include or []:
        if name != LOGPROBS:
            raise ValidationError(f"`include` supports `{LOGPROBS}` only. Given: `{name}`")
    if body.text is not None and body.text.format is not None and body.text.format.type != "text":
        raise ValidationError(
            f'`text.format` supports `type` "text" only. Given: "{body.text.format.type}"'
        )
    if body.top_logprobs and not wants_logprobs(body):
        raise ValidationError(f"`include` must have `{LOGPROBS}` when `top_logprobs` is set")


def chat_request(body: ResponsesRequest) -> ChatRequest:
    """Raises ValidationError."""
    _check(body)
    return ChatRequest(
        model=body.model,
        messages=chat_messages(body),
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        logprobs=wants_logprobs(body),
        top_logprobs=body.top_logprobs,
        stream=body.stream,
    )
