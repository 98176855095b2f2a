"""The one map from exceptions to status codes and bodies.

Native routes answer like TGI: `{"error": message, "error_type": kind}`, and plain text for bodies
that cannot be read. TGI does so on its OpenAI routes too, but OpenAI's client shows a message only
where `error` is an object with a `message`: there the shape is OpenAI's, with TGI's `error_type`
beside it. Errors inside an OpenAI stream are objects in TGI as well.
"""

import math
from dataclasses import dataclass

import orjson
from starlette.responses import PlainTextResponse, Response

from headrace.errors import (
    EngineDeadError,
    GenerationError,
    HeadraceError,
    OverloadedError,
    RequestError,
    TemplateError,
    ToolError,
    ValidationError,
)


class DialectError(ValidationError):
    """A field that this dialect refuses with an `error_type` of its own."""

    def __init__(self, message: str, error_type: str) -> None:
        super().__init__(message)
        self.error_type = error_type


class Refusal(RequestError):
    """The body is not read or not understood; `status` is 400, 413, 415 or 422."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unauthorized(RequestError):
    """The API key is missing or wrong."""


@dataclass(frozen=True)
class ErrorKind:
    """How one class of errors looks from outside; `label` is `err` in tgi_request_failure."""

    status: int
    error_type: str
    prefix: str
    label: str


KINDS: dict[type[HeadraceError], ErrorKind] = {
    Refusal: ErrorKind(422, "validation", "", "validation"),
    Unauthorized: ErrorKind(401, "", "", "validation"),
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


def message_of(error: HeadraceError) -> str:
    """What went wrong, in TGI's words."""
    return f"{kind_of(error).prefix}{error}"


def _error_type(error: HeadraceError) -> str:
    return error.error_type if isinstance(error, DialectError) else kind_of(error).error_type


def headers_of(error: HeadraceError) -> dict[str, str]:
    """When to try again."""
    if isinstance(error, OverloadedError):
        return {"retry-after": str(max(1, math.ceil(error.retry_after)))}
    return {}


def to_tgi_event(error: HeadraceError) -> bytes:
    """The data of an error event in a native stream."""
    return error_body(message_of(error), _error_type(error))


def to_tgi_response(error: HeadraceError) -> Response:
    """TGI's answer, when the status line is not sent yet."""
    if isinstance(error, Unauthorized):
        return Response(status_code=401)
    if isinstance(error, Refusal):
        return PlainTextResponse(str(error), error.status)
    body = to_tgi_event(error)
    return Response(body, kind_of(error).status, headers_of(error), "application/json")


def to_openai_event(error: HeadraceError) -> bytes:
    """The data of an error event in an OpenAI stream; TGI says 422 whatever went wrong."""
    return orjson.dumps({"error": {"message": message_of(error), "http_status_code": 422}})


def to_openai_response(error: HeadraceError) -> Response:
    """OpenAI's answer, when the status line is not sent yet; `error_type` is there for TGI's."""
    if isinstance(error, Unauthorized):
        return Response(status_code=401)
    status = error.status if isinstance(error, Refusal) else kind_of(error).status
    error_type = _error_type(error)
    details = {"message": message_of(error), "type": error_type, "param": None, "code": None}
    body = orjson.dumps({"error": details, "error_type": error_type})
    return Response(body, status, headers_of(error), "application/json")
