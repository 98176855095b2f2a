"""Bodies of OpenAI's routes, with vLLM's extensions."""

from typing import Annotated, Any

from pydantic import Field

from headrace.api.grammar import OutputFormat
from headrace.api.openai.tools import ToolCallMessage, ToolChoice, ToolDefinition
from headrace.api.schema import Body, Float32, Int32, Unsigned32

Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]


class StreamOptions(Body):
    """`stream_options`."""

    include_usage: bool | None = None


class SamplingBody(Body):
    """The fields that chat and completions share."""

    model: str | None = None
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    top_k: Int32 | None = None
    typical_p: Float32 | None = None
    min_p: Float32 | None = None
    repetition_penalty: Float32 | None = None
    frequency_penalty: Float32 | None = None
    presence_penalty: Float32 | None = None
    logit_bias: dict[int, Float32] | None = None
    n: Unsigned32 | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Unsigned32] | None = None
    ignore_eos: bool = False
    max_tokens: Unsigned32 | None = None
    min_tokens: Unsigned32 | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: OutputFormat | None = None
    grammar: OutputFormat | None = None
    adapter_id: Any = None
    skip_special_tokens: bool = True
    cache_salt: str | None = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    use_beam_search: Any = None
    prompt_logprobs: Any = None
    truncate_prompt_tokens: Any = None

    @property
    def includes_usage(self) -> bool:
        """A last chunk with the usage is asked for."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ContentPart(Body):
    """A part of a message's content; only text is supported."""

    type: str
    text: str | None = None


class ChatMessage(Body):
    """One message; other fields are passed over."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCallMessage] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class ChatRequest(SamplingBody):
    """POST /v1/chat/completions, /chat_tokenize."""

    messages: list[ChatMessage]
    max_completion_tokens: Unsigned32 | None = None
    logprobs: bool | None = None
    top_logprobs: Unsigned32 | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: ToolChoice | None = None
    tool_prompt: str | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    separate_reasoning: bool | None = None
    thinking_token_budget: Unsigned32 | None = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: str | None = None
    web_search_options: Any = None


class CompletionRequest(SamplingBody):
    """POST /v1/completions."""

    prompt: str | list[str] | list[Unsigned32] | list[list[Unsigned32]]
    logprobs: Unsigned32 | None = None
    echo: bool | None = None
    best_of: Unsigned32 | None = None
    suffix: Any = None


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "adapter_id": (None,),
    # vLLM's, which change the answer too much to be passed over.
    "structured_outputs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "use_beam_search": (None, False),
    "prompt_logprobs": (None,),
    "truncate_prompt_tokens": (None,),
}
"""Fields without effect here, with the values that ask for nothing."""

UNSUPPORTED_IN_CHAT: dict[str, tuple[Any, ...]] = UNSUPPORTED | {
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}
