"""Constrain a whole reply: its tool calls, its answer, and reasoning before them.

Writes Lark source in llguidance's dialect (see its documentation of the syntax): `[lazy]` ends a
lexeme at its first match, `<[7]>` is token 7, `%json` the values of a schema. Texts that are tokens
of their own may come either as that token or spelled out.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from headrace.errors import ToolError
from headrace.text.reasoning import ReasoningMarkers
from headrace.text.tools.format import ToolFormat
from headrace.text.tools.toolset import Tool, ToolSet
from headrace.types import JSON_SPACING, Grammar

TEXT = r"TEXT: /(.|\n)*/"
SPACE = r"SPACE: /[ \n]{0,4}/"
_ESCAPED_OR_SLASH = re.compile(r"\\.|/|\n", re.DOTALL)
COMPOUNDS = {"$ref", "allOf", "anyOf", "oneOf"}


def reply_grammar(
    format: ToolFormat,
    tool_set: ToolSet | None,
    answer: Grammar | None,
    reasoning: ReasoningMarkers | None,
    token_ids: Mapping[str, int],
    *,
    in_reasoning: bool,
    reasoning_budget: int | None,
) -> Grammar | None:
    """The grammar of a reply in which every call is valid, and text is an `answer`, if given.

    Required calls come at once, others in place of the answer, or wherever their marker stands in
    free text. All may be preceded by reasoning, of at most `reasoning_budget` tokens, which needs a
    token that ends it. None when there is nothing to constrain, as where the format gives free text
    and calls the same beginning. `token_ids`: of the markers that are tokens of the model. Raises
    ToolError for an answer in Lark, whose rules cannot be mixed with others.
    """
    lark = _Lark(format, token_ids)
    text, rules = "TEXT", [TEXT, SPACE]
    if reasoning_budget is not None and reasoning is not None and not in_reasoning:
        text = "UNOPENED"  # else reasoning without end would pass for an answer
        rules.append(rf"UNOPENED: TEXT & ~/[ \n]*{_regex(reasoning.start)}(.|\n)*/")
    reply = _reply_rules(lark, format, tool_set, answer, text)
    if reply is None and reasoning_budget is None:
        return None
    rules += reply or [f"reply: {text}"]
    start = "reply"
    if reasoning is not None:
        rules += lark.thoughts(reasoning.end, reasoning_budget)
        opening = "" if in_reasoning else lark.literal(reasoning.start)
        start = f"({opening} thoughts SPACE){'' if in_reasoning else '?'} reply"
    return Grammar(kind="lark", source="\n".join([f"start: {start}", *rules, ""]))


def _reply_rules(
    lark: "_Lark", format: ToolFormat, tool_set: ToolSet | None, answer: Grammar | None, text: str
) -> list[str] | None:
    """The rule `reply`, without reasoning, and those it needs; None for any `text`."""
    calls = f"{lark.literal(format.marker)} calls"
    call_rules = [] if tool_set is None else lark.call_rules(tool_set)
    if tool_set is not None and tool_set.is_required:
        return [*call_rules, f"reply: {'calls' if format.is_bare else calls}"]
    if answer is not None:
        form = f"answer: {_answer(answer)}"
        return [
            *call_rules,
            form,
            "reply: answer" if tool_set is None else f"reply: answer | {calls}",
        ]
    if tool_set is not None and not format.is_bare:
        opened = lark.until("opened", format.marker, text)
        return [*call_rules, *opened, f"reply: {text} | opened calls"]
    return None


def _answer(grammar: Grammar) -> str:
    """A grammar as part of another."""
    if grammar.kind == "json":
        schema = json.loads(grammar.source)
        return f"%json {json.dumps(_guided(schema, is_lenient=False))}"
    if grammar.kind == "regex":
        return f"/{_ESCAPED_OR_SLASH.sub(_escape, grammar.source)}/"
    raise ToolError("Grammar and tools are mutually exclusive when the grammar is Lark")


def _escape(match: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n"}.get(match[0], match[0])


def _regex(text: str) -> str:
    """Exactly this text, between slashes."""
    return _ESCAPED_OR_SLASH.sub(_escape, re.escape(text))


class _Lark:
    """Writes a format's texts as Lark expressions."""

    def __init__(self, format: ToolFormat, token_ids: Mapping[str, int]) -> None:
        self._format = format
        self._token_ids = token_ids
        tokens = sorted(map(re.escape, token_ids), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(tokens)})") if tokens else None

    def literal(self, text: str) -> str:
        """Exactly this text."""
        parts = [text] if self._split is None else self._split.split(text)
        return " ".join(map(self._part, filter(None, parts)))

    def _part(self, text: str) -> str:
        token_id = self._token_ids.get(text)
        spelled = json.dumps(text)
        return spelled if token_id is None else f"(<[{token_id}]> | {spelled})"

    def until(self, rule: str, marker: str, text: str = "TEXT") -> list[str]:
        """Rules for any `text` up to the first marker, and the marker."""
        token_id = self._token_ids.get(marker)
        token = "" if token_id is None else f" | {text} <[{token_id}]>"
        return [
            f"{rule}: {rule}_text{token}",
            f"{rule}_text[lazy]: {text} {json.dumps(marker)}",
        ]

    def thoughts(self, end: str, max_tokens: int | None) -> list[str]:
        """The rule `thoughts`, up to the marker of their end, and those it needs."""
        if max_tokens is None:
            return self.until("thoughts", end)
        return [
            f"thoughts: thoughts_text <[{self._token_ids[end]}]>",
            f"thoughts_text[max_tokens={max_tokens}]: UNCLOSED",
            rf"UNCLOSED: TEXT & ~/(.|\n)*{_regex(end)}(.|\n)*/",
        ]

    def call_rules(self, tool_set: ToolSet) -> list[str]:
        """The rule `calls`, what follows the first marker, and those it needs."""
        format = self._format
        more = f" ({self.literal(format.separator)} call)*" if tool_set.is_parallel else ""
        opening, closing = self.literal(format.opening), self.literal(format.closing)
        names = [f"call_{number}" for number in range(len(tool_set.callable))]
        calls = [
            f"{name}: {self.literal(format.head(tool.name))} "
            f"%json {json.dumps(arguments_schema(tool))} {self.literal(format.tail)}"
            for name, tool in zip(names, tool_set.callable, strict=True)
        ]
        return [
            f"calls: {opening} call{more} {closing}",
            f"call: {' | '.join(names)}",
            *calls,
        ]


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema that a tool's arguments are held to.

    Arguments that a schema does not
    name are left out, so that a model cannot go on inventing them.
    """
    schema: dict[str, Any] = dict(tool.parameters or {"type": "object", "properties": {}})
    if "properties" in schema and not COMPOUNDS & schema.keys():
        schema.setdefault("additionalProperties", False)
    # Keywords that llguidance does not know are passed over, unless the tool is strict.
    return _guided({"type": "object", **schema}, is_lenient=not tool.is_strict)


def _guided(schema: dict[str, Any] | bool, *, is_lenient: bool) -> dict[str, Any]:
    """The schema with llguidance's options."""
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return {**schema, "x-guidance": {**JSON_SPACING, "lenient": is_lenient}}
