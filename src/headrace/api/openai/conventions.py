"""Where OpenAI's clients and TGI's own disagree about OpenAI's routes.

By default the routes do what OpenAI's clients expect; `--tgi-compat` restores what TGI does. This
is the only place that knows the difference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.responses import Response

from headrace.api.errors import to_openai_response, to_tgi_response
from headrace.config import Settings
from headrace.errors import HeadraceError
from headrace.text.generation import Finish
from headrace.types import FinishReason


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """One side's choices."""

    chat_reasons: Mapping[FinishReason, str]
    completion_reasons: Mapping[FinishReason, str]
    calls_reason: str
    """`finish_reason` of a chat reply that ends in tool calls."""
    streamed_calls_reason: str | None
    """The same at the end of a stream."""
    call_is_spelled_out: bool
    """A message of calls has no `content`, their functions have a `description`, and every
    fragment of a streamed call says whose it is."""
    unfinished_completion: str | None
    """`finish_reason` of a completion's chunks before the last."""
    streams_special_tokens: bool
    """A completion's chunks have the text of special tokens, which the whole answer has not."""
    keeps_stop_text: bool
    """The stop string stays at the end of the text."""
    has_ids: bool
    has_usage_at_finish: bool
    """A completion's last chunk has its usage, asked for or not."""
    repeats_role: bool
    """Every delta of a chat stream names the role, not only the first."""
    error_response: Callable[[HeadraceError], Response]

    def chat_finish_reason(self, finish: Finish | None) -> str | None:
        """None before the end."""
        return None if finish is None else self.chat_reasons[finish.reason]

    def completion_finish_reason(self, finish: Finish | None) -> str | None:
        """`unfinished_completion` before the end."""
        return (
            self.unfinished_completion if finish is None else self.completion_reasons[finish.reason]
        )


OPENAI_REASONS = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS_TOKEN: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
}

OPENAI = Conventions(
    chat_reasons=OPENAI_REASONS,
    completion_reasons=OPENAI_REASONS,
    calls_reason="tool_calls",
    streamed_calls_reason="tool_calls",
    call_is_spelled_out=False,
    unfinished_completion=None,
    streams_special_tokens=False,
    keeps_stop_text=False,
    has_ids=True,
    has_usage_at_finish=False,
    repeats_role=False,
    error_response=to_openai_response,
)

TGI = Conventions(
    chat_reasons={reason: reason.value for reason in FinishReason}
    | {FinishReason.EOS_TOKEN: "stop"},
    completion_reasons={reason: reason.value for reason in FinishReason},
    calls_reason="stop",
    streamed_calls_reason=None,
    call_is_spelled_out=True,
    unfinished_completion="",
    streams_special_tokens=True,
    keeps_stop_text=True,
    has_ids=False,
    has_usage_at_finish=True,
    repeats_role=True,
    error_response=to_tgi_response,
)


def conventions_of(settings: Settings) -> Conventions:
    """The side that the settings take."""
    return TGI if settings.tgi_compat else OPENAI
