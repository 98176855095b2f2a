"""Constrain a reply's tool calls: Lark source, in llguidance's dialect, for any format.

Syntax: llguidance's documentation of its Lark dialect. `[lazy]` ends a lexeme at its first match,
`<[7]>` is token 7, `%json` the values of a schema. Texts that are tokens of their own may come
either as that token or spelled out.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from headrace.text.reasoning import ReasoningMarkers
from headrace.text.tools.format import ToolFormat
from headrace.text.tools.toolset import Tool, ToolSet
from headrace.types import Grammar

TEXT = r"TEXT: /(.|\n)*/"
SPACE = r"SPACE: /[ \n]{0,4}/"
COMPOUNDS = {"$ref", "allOf", "anyOf", "oneOf"}


def calls_grammar(
    format: ToolFormat,
    tool_set: ToolSet,
    reasoning: ReasoningMarkers | None,
    token_ids: Mapping[str, int],
    *,
    in_reasoning: bool,
) -> Grammar | None:
    """The grammar of a reply in which every call is valid.

    Required calls come at once, or behind reasoning; others whenever the marker does. None when
    the format gives free text and calls the same beginning. `token_ids`: of the markers that are
    tokens of the model.
    """
    lark = _Lark(format, token_ids)
    rules = [TEXT, SPACE, *lark.call_rules(tool_set)]
    if tool_set.is_required:
        first = "" if format.is_bare else lark.literal(format.marker)
        start = f"SPACE {first} calls"
    elif not format.is_bare:
        start = "free"
        rules += lark.until("opened", format.marker) + ["free: TEXT | opened calls"]
    else:
        return None
    if reasoning is not None:
        rules += lark.until("thoughts", reasoning.end)
        if in_reasoning:
            start = f"thoughts {start}"
        else:
            start = f"(SPACE {lark.literal(reasoning.start)} thoughts)? {start}"
    return Grammar(kind="lark", source="\n".join([f"start: {start}", *rules, ""]))


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

    White space is that of json.dumps, which models have learned. Arguments that a schema does not
    name are left out, so that a model cannot go on inventing them.
    """
    schema: dict[str, Any] = dict(tool.parameters or {"type": "object", "properties": {}})
    if "properties" in schema and not COMPOUNDS & schema.keys():
        schema.setdefault("additionalProperties", False)
    guidance = {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        # Keywords that llguidance does not know are passed over, unless the tool is strict.
        "lenient": not tool.is_strict,
    }
    return {"type": "object", **schema, "x-guidance": guidance}
