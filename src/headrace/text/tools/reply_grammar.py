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
from headrace.types import Grammar

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
) -> Grammar | None:
    """The grammar of a reply in which every call is valid, and text is an `answer`, if given.

    Required calls come at once, others in place of the answer, or wherever their marker stands in
    free text. All may be preceded by reasoning. None when the format gives free text and calls the
    same beginning. `token_ids`: of the markers that are tokens of the model. Raises ToolError for
    an answer in Lark, whose rules cannot be mixed with others.
    """
    lark = _Lark(format, token_ids)
    rules = [TEXT, SPACE]
    calls = f"{lark.literal(format.marker)} calls"
    if tool_set is not None:
        rules += lark.call_rules(tool_set)
    if tool_set is not None and tool_set.is_required:
        rules.append(f"reply: {'calls' if format.is_bare else calls}")
    elif answer is not None:
        rules.append(f"answer: {_answer(answer)}")
        rules.append("reply: answer" if tool_set is None else f"reply: answer | {calls}")
    elif not format.is_bare:
        rules += [*lark.until("opened", format.marker), "reply: TEXT | opened calls"]
    else:
        return None
    start = "reply"
    if reasoning is not None:
        rules += lark.until("thoughts", reasoning.end)
        opening = "" if in_reasoning else lark.literal(reasoning.start)
        start = f"({opening} thoughts SPACE){'' if in_reasoning else '?'} reply"
    return Grammar(kind="lark", source="\n".join([f"start: {start}", *rules, ""]))


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

    def until(self, rule: str, marker: str) -> list[str]:
        """Rules for any text up to the first marker, and the marker."""
        token_id = self._token_ids.get(marker)
        token = "" if token_id is None else f" | TEXT <[{token_id}]>"
        return [
            f"{rule}: {rule}_text{token}",
            f"{rule}_text[lazy]: TEXT {json.dumps(marker)}",
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
    """The schema with llguidance's options; white space as json.dumps writes it, which models
    have learned."""
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    guidance = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "lenient": is_lenient,
    }
    return {**schema, "x-guidance": guidance}
