"""Errors in Anthropic's shape: other statuses, and a type per status."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from headrace.api.errors import Refusal, headers_of, kind_of, message_of
from headrace.errors import HeadraceError

STATUSES: Mapping[int, int] = {
    415: 400,
    422: 400,
    424: 500,
    429: 529,
    503: 500,
}
"""TGI's status, and Anthropic's where it differs."""

TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    413: "request_too_large",
    500: "api_error",
    529: "overloaded_error",
}


def _status(error: HeadraceError) -> int:
    status = error.status if isinstance(error, Refusal) else kind_of(error).status
    return STATUSES.get(status, status)


def error_object(error: HeadraceError) -> dict[str, Any]:
    """The body of an error response, and the data of an error event."""
    details = {"type": TYPES[_status(error)], "message": message_of(error)}
    return {"type": "error", "error": details}


def to_anthropic_response(error: HeadraceError) -> Response:
    """Anthropic's answer, when the status line is not sent yet."""
    body = orjson.dumps(error_object(error))
    return Response(body, _status(error), headers_of(error), "application/json")
