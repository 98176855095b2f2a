"""Bodies of Anthropic's routes."""

from typing import Annotated, Any, Literal

from pydantic import Field

from headrace.api.openai.tools import FunctionName
from headrace.api.schema import Body, Float32, Int32, Unsigned32


class ContentBlock(Body):
    """A block of a message's content: text, thinking, a tool's use or its result."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list["ContentBlock"] | None = None
    is_error: bool | None = None


class InputMessage(Body):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str | list[ContentBlock]


class ToolParam(Body):
    """A tool of the client's own; `type` names one of Anthropic's, which there are none of."""

    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoiceParam(Body):
    """`tool_choice`; `name` goes with `type` "tool"."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingParam(Body):
    """`thinking`, of at most `budget_tokens`."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Unsigned32 | None = None
    display: Literal["summarized"] | None = None


class JsonFormat(Body):
    """`output_config.format`."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """`output_config`."""

    format: JsonFormat | None = None
    effort: str | None = None


class Metadata(Body):
    """Who asks; nothing depends on it."""

    user_id: str | None = None


class CountTokensRequest(Body):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: list[InputMessage]
    system: str | list[ContentBlock] | None = None
    tools: list[ToolParam] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingParam | None = None
    mcp_servers: Any = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest):
    """POST /v1/messages."""

    max_tokens: Annotated[Unsigned32, Field(ge=1)]
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    top_k: Annotated[Int32, Field(ge=0)] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: Any = None


UNSUPPORTED: dict[str, tuple[Any, ...]] = {"mcp_servers": (None, [])}
"""Fields without effect here, with the values that ask for nothing."""

UNSUPPORTED_IN_MESSAGES: dict[str, tuple[Any, ...]] = UNSUPPORTED | {"container": (None,)}
