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


def _template_variables(body: ChatRequest, known: frozenset[str]) -> dict[str, Any]:
    """Raises ValidationError for what the template would not notice."""
    variables = body.chat_template_kwargs or {}
    if reserved := RENDERED & variables.keys():
        raise ValidationError(f"`chat_template_kwargs` must not contain `{min(reserved)}`")
    if body.reasoning_effort is None:
        return variables
    if "reasoning_effort" not in known:
        raise ValidationError("`reasoning_effort` is not supported by this model's chat template")
    return {"reasoning_effort": body.reasoning_effort, **variables}


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
    variables = _template_variables(body, chat_format.variables)
    messages, tools = present_tools(chat_format, messages, tool_set, body.tool_prompt)
    text = await service.frontend.render_chat(messages, tools, **variables)
    markers = chat_format.reasoning
    in_reasoning = markers is not None and is_opened(text, markers, prefill)
    return ChatPrompt(text=text, tool_set=tool_set, in_reasoning=in_reasoning)


def chat_turn(
    service: Service, body: ChatRequest, prompt: ChatPrompt, request: GenerationRequest
) -> ChatTurn:
    """Constrain the reply, and say how it is parsed. Raises ToolError, ValidationError."""
    chat_format, tool_set = service.frontend.chat_format, prompt.tool_set
    budget = _reasoning_budget(service, body, request)
    separates_reasoning = _separates_reasoning(service, body)
    with_reasoning = separates_reasoning and chat_format.reasoning is not None
    if request.grammar is not None and request.grammar.kind == "lark":
        with_reasoning = False  # there is no place for reasoning in the client's own rules
    if tool_set is None and not with_reasoning and budget is None:
        return ChatTurn(request=request, new_parser=None)
    if budget is not None or _needs_grammar(service, request, tool_set):
        grammar = chat_format.grammar(
            tool_set,
            request.grammar,
            in_reasoning=prompt.in_reasoning,
            reasoning_budget=budget,
        )
        request = replace(request, grammar=grammar)

    def new_parser() -> ReplyParser:
        return chat_format.parser(
            tool_set,
            separates_reasoning=separates_reasoning,
            in_reasoning=prompt.in_reasoning,
            is_constrained=request.grammar is not None,
        )

    markers = frozenset(chat_format.token_ids.values())
    return ChatTurn(request=replace(request, shown_token_ids=markers), new_parser=new_parser)


def _separates_reasoning(service: Service, body: ChatRequest) -> bool:
    if body.separate_reasoning is None:
        return service.settings.separate_reasoning
    return body.separate_reasoning


def _reasoning_budget(
    service: Service, body: ChatRequest, request: GenerationRequest
) -> int | None:
    """Tokens that reasoning may take. Raises ValidationError where nothing would enforce it."""
    budget = body.thinking_token_budget
    if budget is None:
        return None
    chat_format = service.frontend.chat_format
    if chat_format.reasoning is None or chat_format.reasoning.end not in chat_format.token_ids:
        raise ValidationError(
            "a budget of thinking tokens is not supported by this model: its chat template shows "
            "no reasoning that ends with a token of its own"
        )
    if service.settings.disable_grammar_support:
        raise ValidationError(
            "a budget of thinking tokens needs grammars, which this server does not support"
        )
    if request.grammar is not None and request.grammar.kind == "lark":
        raise ValidationError("a budget of thinking tokens cannot go with a grammar in Lark")
    return budget


def _needs_grammar(service: Service, request: GenerationRequest, tool_set: ToolSet | None) -> bool:
    """Required calls and answers of a form need one; calls that are merely allowed get one
    unless it would forbid what the request asks for."""
    if request.grammar is not None:
        return True
    if tool_set is None:
        return False
    has_grammars = not service.settings.disable_grammar_support
    if tool_set.is_required and not has_grammars:
        raise ToolError("`tool_choice` needs grammars, which this server does not support")
    return tool_set.is_required or (has_grammars and not request.min_new_tokens)
