"""The one map from exceptions to status codes and bodies.

All dialects answer `{"error": message, "error_type": kind}`, as TGI does on its OpenAI routes
too: huggingface_hub reads both keys, and OpenAI's client picks the exception by status and shows
the body in its message. Errors inside an OpenAI stream have OpenAI's shape, again like TGI.
"""

import math
from dataclasses import dataclass

import orjson
from starlette.responses import Response

from headrace.errors import (
    EngineDeadError,
    GenerationError,
    HeadraceError,
    OverloadedError,
    TemplateError,
    ToolError,
    ValidationError,
)


class DialectError(ValidationError):
    """A field that this dialect refuses with an `error_type` of its own."""

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True)
class ErrorKind:
    """How one class of errors looks from outside; `label` is `err` in tgi_request_failure."""

    status: int
    error_type: str
    prefix: str
    label: str


KINDS: dict[type[HeadraceError], ErrorKind] = {
    DialectError: ErrorKind(422, "", "", "validation"),
    ValidationError: ErrorKind(422, "validation", "Input validation error: ", "validation"),
    TemplateError: ErrorKind(422, "template_error", "Template error: ", "template"),
    ToolError: ErrorKind(422, "tool_error", "Tool error: ", "validation"),
    OverloadedError: ErrorKind(429, "overloaded", "", "overloaded"),
    GenerationError: ErrorKind(
        424, "generation", "Request failed during generation: Server error: ", "generation"
    ),
    EngineDeadError: ErrorKind(503, "healthcheck", "", "generation"),
}
"""First match wins, so a class stands before its base."""


def kind_of(error: HeadraceError) -> ErrorKind:
    """The entry of KINDS that fits."""
    return next(kind for cls, kind in KINDS.items() if isinstance(error, cls))


def error_body(message: str, error_type: str) -> bytes:
    """TGI's error object."""
    return orjson.dumps({"error": message, "error_type": error_type})


def to_body(error: HeadraceError) -> bytes:
    """The body for an error, also the data of a native stream's error event."""
    kind = kind_of(error)
    error_type = error.error_type if isinstance(error, DialectError) else kind.error_type
    return error_body(f"{kind.prefix}{error}", error_type)


def to_openai_event(error: HeadraceError) -> bytes:
    """The data of an error event in an OpenAI stream; TGI says 422 whatever went wrong."""
    message = f"{kind_of(error).prefix}{error}"
    return orjson.dumps({"error": {"message": message, "http_status_code": 422}})


def to_response(error: HeadraceError) -> Response:
    """The whole answer, when the status line is not sent yet."""
    headers = {}
    if isinstance(error, OverloadedError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return Response(to_body(error), kind_of(error).status, headers, "application/json")
