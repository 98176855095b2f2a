"""Reading a request's JSON body, or refusing it.

The refusals are those of axum, the framework under TGI, up to the wording of a type error.
"""

from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic import ValidationError as SchemaError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from headrace.api.errors import Refusal

Model = TypeVar("Model", bound=BaseModel)


def _check_content_type(value: bytes) -> None:
    mime = value.split(b";")[0].strip().lower()
    kind, _, subtype = mime.partition(b"/")
    if kind != b"application" or not (subtype == b"json" or subtype.endswith(b"+json")):
        raise Refusal(415, "Expected request with `Content-Type: application/json`")


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body of at most `limit` bytes. Raises Refusal, or ClientDisconnect."""
    headers = dict(scope["headers"])
    _check_content_type(headers.get(b"content-type", b""))
    too_long = Refusal(413, "Failed to buffer the request body: length limit exceeded")
    if int(headers.get(b"content-length", b"0")) > limit:
        raise too_long
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_long
        if not message.get("more_body", False):
            return b"".join(parts)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _explain(detail: Any) -> str:
    path, message = _path(detail["loc"]), detail["msg"]
    if detail["type"] == "missing":
        *outer, field = detail["loc"]
        path, message = _path(tuple(outer)), f"missing field `{field}`"
    return f"{path}: {message}" if path else message


def parse_body(model: type[Model], body: bytes) -> Model:
    """Decode and check the types of a body. Raises Refusal."""
    try:
        return model.model_validate_json(body)
    except SchemaError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        if detail["type"] == "json_invalid":
            reason = detail["msg"].removeprefix("Invalid JSON: ")
            raise Refusal(400, f"Failed to parse the request body as JSON: {reason}") from None
        raise Refusal(
            422,
            "Failed to deserialize the JSON body into the target type: " + _explain(detail),
        ) from None
