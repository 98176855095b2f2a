"""How one model writes replies: its tool calls, its reasoning, and the tokens that mark them.

Derived from chat template and vocabulary, once; knows no request but through its arguments.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from headrace.text.reasoning import ReasoningMarkers, detect_reasoning
from headrace.text.reply import ReplyParser
from headrace.text.tools.calls import CallRules
from headrace.text.tools.format import ToolFormat
from headrace.text.tools.hermes import HERMES
from headrace.text.tools.registry import detect
from headrace.text.tools.reply_grammar import reply_grammar
from headrace.text.tools.toolset import ToolSet
from headrace.types import Grammar


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """The conventions that a chat template teaches its model."""

    tools: ToolFormat = HERMES
    renders_tools: bool = False
    """The template shows the model its tools; else they are described in a message."""
    variables: frozenset[str] = frozenset()
    """Names that the templates mention."""
    reasoning: ReasoningMarkers | None = None
    token_ids: Mapping[str, int] = field(default_factory=dict)
    """The markers that are tokens of their own."""

    def grammar(
        self,
        tool_set: ToolSet | None,
        answer: Grammar | None,
        *,
        in_reasoning: bool,
        reasoning_budget: int | None = None,
    ) -> Grammar | None:
        """Constrains a reply's calls, its text to `answer`, and its reasoning to so many tokens;
        see `reply_grammar`."""
        return reply_grammar(
            self.tools,
            tool_set,
            answer,
            self.reasoning,
            self.token_ids,
            in_reasoning=in_reasoning,
            reasoning_budget=reasoning_budget,
        )

    def parser(
        self,
        tool_set: ToolSet | None,
        *,
        separates_reasoning: bool,
        in_reasoning: bool,
        is_constrained: bool,
    ) -> ReplyParser:
        """A parser for one reply. `is_constrained`: the reply follows `grammar`."""
        rules = None
        if tool_set is not None:
            rules = CallRules(
                names=frozenset(tool.name for tool in tool_set.callable),
                max_calls=None if tool_set.is_parallel else 1,
                is_eager=is_constrained,
                new_id=self.tools.new_id,
            )
        reasoning = self.reasoning if separates_reasoning else None
        in_reasoning = in_reasoning and separates_reasoning
        return ReplyParser(self.tools, rules, reasoning, in_reasoning=in_reasoning)


def detect_chat_format(
    sources: Mapping[str, str], token_id: Callable[[str], int | None]
) -> ChatFormat:
    """The format that templates (by name) show. `token_id`: of a text that is one token."""
    source = "\n".join(sources.values())
    variables = frozenset(re.findall(r"\w+", source))
    # A template that teaches an unknown format is not given the tools: described in words, they
    # come with a format that can be read.
    known = detect(source) if "tools" in variables else None
    tools = known or HERMES
    reasoning = detect_reasoning(source)
    return ChatFormat(
        tools=tools,
        renders_tools=known is not None,
        variables=variables,
        reasoning=reasoning,
        token_ids=dict(_marker_tokens(tools, reasoning, token_id)),
    )


def _marker_tokens(
    tools: ToolFormat, reasoning: ReasoningMarkers | None, token_id: Callable[[str], int | None]
) -> Iterable[tuple[str, int]]:
    markers = [tools.marker, *tools.special]
    if reasoning is not None:
        markers += (reasoning.start, reasoning.end)
    for marker in markers:
        found = token_id(marker)
        if found is not None:
            yield marker, found
