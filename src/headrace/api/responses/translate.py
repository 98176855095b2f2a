"""The Responses API's fields as those of a chat request."""

from headrace.api.grammar import NamedSchema, OutputFormat
from headrace.api.openai.schemas import ChatRequest
from headrace.api.openai.tools import (
    FunctionChoice,
    FunctionDefinition,
    NamedToolChoice,
    ToolChoice,
    ToolDefinition,
)
from headrace.api.responses.input import chat_messages
from headrace.api.responses.schemas import FunctionTool, ResponsesRequest
from headrace.api.schema import reject_unsupported
from headrace.errors import ValidationError

LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (LOGPROBS, "reasoning.encrypted_content")
"""What `include` may name. Reasoning is sent in clear, which can be sent back just as well."""


def wants_logprobs(body: ResponsesRequest) -> bool:
    """Log-probabilities are an extra that the client has to name."""
    return LOGPROBS in (body.include or [])


def _check(body: ResponsesRequest) -> None:
    if body.text is not None:
        reject_unsupported(body.text, {"verbosity": (None, "medium")})
    if body.reasoning is not None:
        reject_unsupported(body.reasoning, {"summary": (None, "auto")})
    for name in body.include or []:
        if name not in INCLUDABLE:
            raise ValidationError(f"`include` supports {INCLUDABLE} only. Given: `{name}`")
    if body.top_logprobs and not wants_logprobs(body):
        raise ValidationError(f"`include` must have `{LOGPROBS}` when `top_logprobs` is set")


def _tool(tool: FunctionTool) -> ToolDefinition:
    given = tool.model_dump(exclude_unset=True, exclude={"type"})
    return ToolDefinition(type="function", function=FunctionDefinition(**given))


def _tool_choice(body: ResponsesRequest) -> ToolChoice | None:
    if body.tool_choice is None or isinstance(body.tool_choice, str):
        return body.tool_choice
    return NamedToolChoice(function=FunctionChoice(name=body.tool_choice.name))


def _response_format(body: ResponsesRequest) -> OutputFormat | None:
    form = None if body.text is None else body.text.format
    if form is None:
        return None
    if form.type != "json_schema":
        return OutputFormat(type=form.type)
    if form.json_schema is None:
        raise ValidationError('`text.format` with `type` "json_schema" needs a `schema`')
    return OutputFormat(type="json_schema", json_schema=NamedSchema(schema=form.json_schema))


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
        tools=None if body.tools is None else list(map(_tool, body.tools)),
        tool_choice=_tool_choice(body),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_response_format(body),
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
        # Always apart: reasoning is an item of its own.
        separate_reasoning=True,
    )
