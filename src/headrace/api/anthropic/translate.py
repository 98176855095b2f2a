"""Anthropic's fields as those of an OpenAI chat request, which the front end's terms come from."""

from typing import Any

from headrace.api.anthropic.input import chat_messages
from headrace.api.anthropic.schemas import (
    CountTokensRequest,
    MessagesRequest,
    ToolChoiceParam,
    ToolParam,
)
from headrace.api.grammar import NamedSchema, OutputFormat
from headrace.api.openai.schemas import ChatRequest
from headrace.api.openai.tools import (
    FunctionChoice,
    FunctionDefinition,
    NamedToolChoice,
    ToolChoice,
    ToolDefinition,
)
from headrace.api.service import Service
from headrace.errors import ValidationError

CHOICES = {"auto": "auto", "any": "required", "none": "none"}
THINKS = "enable_thinking"
"""The variable by which chat templates switch reasoning on and off."""


def _tool(tool: ToolParam) -> ToolDefinition:
    given = tool.model_dump(exclude_unset=True, include={"name", "description", "strict"})
    function = FunctionDefinition(parameters=tool.input_schema, **given)
    return ToolDefinition(type="function", function=function)


def _tool_choice(choice: ToolChoiceParam | None) -> ToolChoice | None:
    if choice is None:
        return None
    if choice.type != "tool":
        return CHOICES[choice.type]
    if choice.name is None:
        raise ValidationError('`tool_choice` with `type` "tool" needs a `name`')
    return NamedToolChoice(function=FunctionChoice(name=choice.name))


def _template_variables(service: Service, body: CountTokensRequest) -> dict[str, bool] | None:
    """Switch reasoning where the chat template can. Raises ValidationError."""
    if body.thinking is None or body.thinking.type == "adaptive":
        return None
    chat_format, thinks = service.frontend.chat_format, body.thinking.type == "enabled"
    if thinks and chat_format.reasoning is None:
        raise ValidationError("`thinking` is not supported by this model's chat template")
    return {THINKS: thinks} if THINKS in chat_format.variables else None


def _response_format(body: CountTokensRequest) -> OutputFormat | None:
    if body.output_config is None or body.output_config.format is None:
        return None
    schema = NamedSchema(schema=body.output_config.format.json_schema)
    return OutputFormat(type="json_schema", json_schema=schema)


def prompt_fields(service: Service, body: CountTokensRequest) -> dict[str, Any]:
    """What the prompt depends on, as fields of a ChatRequest. Raises ValidationError."""
    choice = body.tool_choice
    return {
        "messages": chat_messages(body),
        "tools": None if body.tools is None else list(map(_tool, body.tools)),
        "tool_choice": _tool_choice(choice),
        "parallel_tool_calls": choice is None or not choice.disable_parallel_tool_use,
        "chat_template_kwargs": _template_variables(service, body),
        "reasoning_effort": None if body.output_config is None else body.output_config.effort,
    }


def _thinking_budget(body: MessagesRequest) -> int | None:
    """Raises ValidationError when it leaves no room for the answer."""
    budget = None if body.thinking is None else body.thinking.budget_tokens
    if budget is not None and body.max_tokens <= budget:
        raise ValidationError("`max_tokens` must be greater than `thinking.budget_tokens`")
    return budget


def chat_request(service: Service, body: MessagesRequest) -> ChatRequest:
    """Raises ValidationError."""
    return ChatRequest(
        model=body.model,
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        # Zero is "not asked for" to Anthropic's clients, and an error in TGI's rules.
        top_k=body.top_k or None,
        stop=body.stop_sequences,
        stream=body.stream,
        response_format=_response_format(body),
        # Always apart: a thinking block is not part of the text.
        separate_reasoning=True,
        **prompt_fields(service, body),
        thinking_token_budget=_thinking_budget(body),
    )
