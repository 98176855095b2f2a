"""From a chat request to a prompt, and to what is needed to understand the reply."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from headrace.api.openai.messages import template_messages
from headrace.api.openai.schemas import ChatRequest
from headrace.api.openai.tools import tool_set_of
from headrace.api.service import Service
from headrace.errors import ToolError, ValidationError
from headrace.text.generation import GenerationRequest
from headrace.text.reasoning import is_opened
from headrace.text.reply import ReplyParser
from headrace.text.tools.presentation import present_tools
from headrace.text.tools.toolset import ToolSet

RENDERED = {"messages", "tools", "add_generation_prompt", "documents", "bos_token", "eos_token"}
"""Variables of a chat template that requests set otherwise, or not at all."""


@dataclass(frozen=True, kw_only=True)
class ChatPrompt:
    """The rendered messages."""

    text: str
    tool_set: ToolSet | None
    in_reasoning: bool
    """The reply begins inside reasoning."""


@dataclass(frozen=True, kw_only=True)
class ChatTurn:
    """A request, and the parser of its replies; None where replies are content as they are."""

    request: GenerationRequest
    new_parser: Callable[[], ReplyParser] | None


def _template_variables(body: ChatRequest) -> dict[str, Any]:
    variables = body.chat_template_kwargs or {}
    if reserved := RENDERED & variables.keys():
        raise ValidationError(f"`chat_template_kwargs` must not contain `{min(reserved)}`")
    return variables


def _prefill(messages: list[dict[str, Any]]) -> str | None:
    """The beginning of the reply, if the request brings it."""
    if not messages or messages[-1]["role"] != "assistant" or "tool_calls" in messages[-1]:
        return None
    return str(messages[-1]["content"])


async def render_prompt(service: Service, body: ChatRequest) -> ChatPrompt:
    """Apply the chat template. Raises ValidationError, ToolError, TemplateError."""
    chat_format = service.frontend.chat_format
    tool_set = tool_set_of(body.tools, body.tool_choice, body.parallel_tool_calls)
    if body.tool_prompt is not None and tool_set is None:
        raise ValidationError("`tool_prompt` is only allowed with `tools` that may be called")
    messages = template_messages(body)
    prefill = _prefill(messages)
    variables = _template_variables(body)
    messages, tools = present_tools(chat_format, messages, tool_set, body.tool_prompt)
    text = await service.frontend.render_chat(messages, tools, **variables)
    markers = chat_format.reasoning
    in_reasoning = markers is not None and is_opened(text, markers, prefill)
    return ChatPrompt(text=text, tool_set=tool_set, in_reasoning=in_reasoning)


def chat_turn(
    service: Service, body: ChatRequest, prompt: ChatPrompt, request: GenerationRequest
) -> ChatTurn:
    """Constrain the calls, and say how replies are parsed. Raises ToolError.

    Replies that follow a grammar of the client's are content as a whole.
    """
    if request.grammar is not None:
        if prompt.tool_set is not None:
            raise ToolError("Grammar and tools are mutually exclusive")
        return ChatTurn(request=request, new_parser=None)
    chat_format = service.frontend.chat_format
    separates = _separates_reasoning(service, body)
    if prompt.tool_set is None and not (separates and chat_format.reasoning):
        return ChatTurn(request=request, new_parser=None)
    request = _constrained(service, request, prompt)

    def new_parser() -> ReplyParser:
        return chat_format.parser(
            prompt.tool_set,
            separates_reasoning=separates,
            in_reasoning=prompt.in_reasoning,
            is_constrained=request.grammar is not None,
        )

    markers = frozenset(chat_format.token_ids.values())
    return ChatTurn(request=replace(request, shown_token_ids=markers), new_parser=new_parser)


def _separates_reasoning(service: Service, body: ChatRequest) -> bool:
    if body.separate_reasoning is None:
        return service.settings.separate_reasoning
    return body.separate_reasoning


def _constrained(
    service: Service, request: GenerationRequest, prompt: ChatPrompt
) -> GenerationRequest:
    """The request with a grammar for its calls, where there can be one."""
    tool_set = prompt.tool_set
    if tool_set is None:
        return request
    if not tool_set.is_required:
        # Free text needs no grammar: leave it unconstrained where that would forbid something.
        if service.settings.disable_grammar_support or request.min_new_tokens:
            return request
    elif service.settings.disable_grammar_support:
        raise ToolError("`tool_choice` needs grammars, which this server does not support")
    chat_format = service.frontend.chat_format
    return replace(request, grammar=chat_format.grammar(tool_set, in_reasoning=prompt.in_reasoning))
