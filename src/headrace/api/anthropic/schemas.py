"""Bodies of Anthropic's routes."""

from typing import Annotated, Any, Literal

from pydantic import Field

from headrace.api.schema import Body, Float32, Int32, Unsigned32


class ContentBlock(Body):
    """A block of a message's content; only text is supported."""

    type: str
    text: str | None = None


class InputMessage(Body):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str | list[ContentBlock]


class Metadata(Body):
    """Who asks; nothing depends on it."""

    user_id: str | None = None


class CountTokensRequest(Body):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: list[InputMessage]
    system: str | list[ContentBlock] | None = None
    tools: Any = None
    tool_choice: Any = None
    thinking: Any = None
    mcp_servers: Any = None
    output_config: Any = None


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


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, {"type": "auto"}, {"type": "none"}),
    "thinking": (None, {"type": "disabled"}),
    "mcp_servers": (None, []),
    "output_config": (None, {}),
}
"""Fields without effect here, with the values that ask for nothing."""

UNSUPPORTED_IN_MESSAGES: dict[str, tuple[Any, ...]] = UNSUPPORTED | {"container": (None,)}
