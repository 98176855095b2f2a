"""The tool fields of a chat request."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from headrace.api.schema import Body
from headrace.text.tools.toolset import Tool, ToolSet, choose_tools

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class FunctionDefinition(Body):
    """A function: its name, what it is for, and a JSON schema of its arguments."""

    model_config = ConfigDict(extra="allow")

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Body):
    """One entry of `tools`."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: FunctionDefinition


class FunctionChoice(Body):
    """The function of a named `tool_choice`."""

    name: str


class NamedToolChoice(Body):
    """`tool_choice` for one function."""

    type: Literal["function"] = "function"
    function: FunctionChoice


ToolChoice = str | NamedToolChoice
"""`auto`, `none`, `required`, or a function: OpenAI's object, or TGI's plain name."""


class FunctionCall(Body):
    """A call as it comes back in `messages`; TGI says `parameters` too."""

    name: str
    arguments: str | dict[str, Any] | None = None
    parameters: str | dict[str, Any] | None = None


class ToolCallMessage(Body):
    """One entry of a message's `tool_calls`."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


def _tool(definition: ToolDefinition) -> Tool:
    """Chat templates see what the client sent; TGI's `arguments` count as `parameters`."""
    shown = definition.model_dump(exclude_unset=True)
    function = shown["function"]
    parameters = definition.function.parameters
    if parameters is None and isinstance(function.get("arguments"), dict):
        parameters = function["parameters"] = function.pop("arguments")
    return Tool(
        name=definition.function.name,
        parameters=parameters,
        is_strict=bool(definition.function.strict),
        definition=shown,
    )


def tool_set_of(
    tools: list[ToolDefinition] | None, choice: ToolChoice | None, parallel: bool | None
) -> ToolSet | None:
    """What may be called; None for nothing. Raises ToolError."""
    name = choice.function.name if isinstance(choice, NamedToolChoice) else choice
    is_parallel = parallel is not False
    return choose_tools(list(map(_tool, tools or [])), name, is_parallel=is_parallel)
