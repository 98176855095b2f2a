"""The tools of one request: which there are, and which of them the reply must or may call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.errors import ToolError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the model may call."""

    name: str
    parameters: Mapping[str, Any] | None = None
    """JSON schema of the arguments; None: there are none."""
    is_strict: bool = False
    """True: a schema that cannot be enforced completely is an error."""
    definition: Mapping[str, Any]
    """The tool as chat templates expect it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSet:
    """`callable` is the part of `tools` that may be called."""

    tools: Sequence[Tool]
    callable: Sequence[Tool]
    is_required: bool = False
    """True: the reply consists of calls."""
    is_parallel: bool = True
    """False: one call at most."""

    @property
    def definitions(self) -> list[Any]:
        """All tools for the chat template."""
        return [tool.definition for tool in self.tools]


def choose_tools(tools: Sequence[Tool], choice: str | None, *, is_parallel: bool) -> ToolSet | None:
    """Apply `choice`: "auto", "none", "required", or the name of a tool; None is "auto".

    Returns None when no tool can be called. Raises ToolError.
    """
    if not tools:
        if choice in (None, "none", "auto"):
            return None
        raise ToolError("`tool_choice` needs `tools`")
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise ToolError(f"`tools` has more than one function with name {name}")
    if choice == "none":
        return None
    if choice in (None, "auto", "required"):
        is_required = choice == "required"
        return ToolSet(
            tools=tools, callable=tools, is_required=is_required, is_parallel=is_parallel
        )
    chosen = [tool for tool in tools if tool.name == choice]
    if not chosen:
        raise ToolError(f"Tool with name {choice} not found")
    return ToolSet(tools=tools, callable=chosen, is_required=True, is_parallel=False)
