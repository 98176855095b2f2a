"""The body of POST /v1/responses."""

from typing import Annotated, Any, Literal

from pydantic import Field

from headrace.api.openai.tools import FunctionName
from headrace.api.schema import Body, Float32, Unsigned32


class InputContent(Body):
    """A part of an input item's content; only text is supported."""

    type: str
    text: str | None = None


class InputItem(Body):
    """One item of the conversation: a message, a call and its output, or reasoning."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputContent] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputContent] | None = None


class FunctionTool(Body):
    """A tool of the client's own; there are no others."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionToolChoice(Body):
    """`tool_choice` for one function."""

    type: Literal["function"]
    name: str


class TextFormat(Body):
    """`text.format`; the schema's name and description stay unread, it is always followed."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class TextOptions(Body):
    """`text`."""

    format: TextFormat | None = None
    verbosity: Any = None


class ReasoningOptions(Body):
    """`reasoning`. It comes as it is, so there is nothing to summarize."""

    effort: str | None = None
    summary: Any = None


class ResponseStreamOptions(Body):
    """`stream_options`; the stream is never obfuscated."""

    include_obfuscation: bool | None = None


class ResponsesRequest(Body):
    """POST /v1/responses."""

    model: str | None = None
    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: Annotated[Unsigned32, Field(ge=1)] | None = None
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    top_logprobs: Unsigned32 | None = None
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    text: TextOptions | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None
    service_tier: Any = None
    store: bool | None = None
    previous_response_id: Any = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    reasoning: ReasoningOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | FunctionToolChoice | None = None
    max_tool_calls: Any = None
    truncation: Any = None


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "store": (None, False),
    "previous_response_id": (None,),
    "conversation": (None,),
    "background": (None, False),
    "prompt": (None,),
    "service_tier": (None, "auto", "default"),
    "max_tool_calls": (None,),
    "truncation": (None, "disabled"),
}
"""Fields without effect here, with the values that ask for nothing."""
