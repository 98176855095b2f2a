"""The reference of every flag and field with its status, written from the code.

`python -m headrace.api.reference > docs/reference.md`; a test fails when the file is out of date.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from headrace.api import parameters
from headrace.api.anthropic import schemas as anthropic
from headrace.api.openai import schemas as openai
from headrace.api.responses import schemas as responses
from headrace.api.routes import ROUTES
from headrace.config import (
    IGNORED_ENVIRONMENT,
    Settings,
    environment_names,
)

Unsupported = Mapping[str, tuple[Any, ...]]

UNSUPPORTED: dict[type[BaseModel], Unsupported] = {
    parameters.GenerateParameters: parameters.UNSUPPORTED,
    openai.ChatRequest: openai.UNSUPPORTED_IN_CHAT,
    openai.CompletionRequest: openai.UNSUPPORTED,
    responses.ResponsesRequest: responses.UNSUPPORTED,
    anthropic.MessagesRequest: anthropic.UNSUPPORTED_IN_MESSAGES,
    anthropic.CountTokensRequest: anthropic.UNSUPPORTED,
}
"""Per body the fields that its handlers refuse, with the values that ask for nothing."""

WITHOUT_EFFECT: dict[type[BaseModel], set[str]] = {
    responses.ResponsesRequest: {"parallel_tool_calls", "prompt_cache_key", "safety_identifier",
                                 "stream_options", "user"},
    anthropic.MessagesRequest: {"metadata", "service_tier"},
}  # fmt: skip
"""Per body the fields that ask for nothing that a server of one model could do or leave."""


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _code(text: object) -> str:
    return "`" + str(text).replace("|", "\\|") + "`"


def _annotation(annotation: Any) -> str:
    """`int | None` for an annotated, bounded or optional int."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _annotation(typing.get_args(annotation)[0])
    if annotation is Any:
        return "any"
    if annotation is type(None):
        return "null"
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(f'"{argument}"' for argument in arguments)
    if typing.get_origin(annotation) in (list, dict):
        inner = ", ".join(map(_annotation, arguments))
        return f"{typing.get_origin(annotation).__name__}[{inner}]"
    if arguments:
        return " | ".join(map(_annotation, arguments))
    return str(annotation.__name__)


def flag_status(field: dataclasses.Field[Any]) -> str:
    """What happens when somebody sets it."""
    if reason := field.metadata["rejected"]:
        return f"rejected: {reason}"
    if reason := field.metadata["ignored"]:
        return f"no effect, with a warning: {reason}"
    return "supported"


def _flag_rows() -> Iterator[tuple[str, ...]]:
    for field in dataclasses.fields(Settings):
        option = "--" + field.name.replace("_", "-")
        default = "" if field.default is None else _code(field.default)
        meaning = field.metadata["help"]
        environment = ", ".join(map(_code, environment_names(field)))
        yield _code(option), environment, default, meaning, flag_status(field)


def field_status(body: type[BaseModel], name: str) -> str:
    """What happens when a client sends it."""
    if name in WITHOUT_EFFECT.get(body, set()):
        return "accepted, without effect"
    unsupported = UNSUPPORTED.get(body, {})
    if name not in unsupported:
        return "supported"
    harmless = [_code(value) for value in unsupported[name] if value is not None]
    return "refused" + (f", but for {', '.join(harmless)}" if harmless else "")


def _field_rows(body: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in body.model_fields.items():
        annotation = _code(_annotation(field.annotation))
        yield _code(name), annotation, _default(field), field_status(body, name)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if default is None or isinstance(default, BaseModel):
        return ""
    return _code(default)


def _bodies() -> dict[type[BaseModel], list[str]]:
    """Every body with the paths that take it; TGI's parameters are an object inside of bodies."""
    bodies: dict[type[BaseModel], list[str]] = {}
    for route in ROUTES:
        if route.body is not None:
            bodies.setdefault(route.body, []).append(f"POST {route.path}")
    bodies[parameters.GenerateParameters] = ["`parameters` of TGI's routes"]
    return bodies


def render() -> str:
    """The whole document in Markdown."""
    routes = (
        (route.method, _code(route.path), "open" if route.is_open else "key", route.summary)
        for route in ROUTES
    )
    parts = [
        "# Reference",
        "Written by `python -m headrace.api.reference`; change the code, not this file.",
        "## Flags",
        "A flag beats its environment variable. The launcher's default port is TGI's, "
        "`headrace serve` listens on 8080.",
        _table(("flag", "environment", "default", "meaning", "status"), _flag_rows()),
        "TGI reads these from the environment only; here a warning says that they have no effect:",
        _table(
            ("environment", "reason"),
            ((_code(name), reason) for name, reason in IGNORED_ENVIRONMENT.items()),
        ),
        "## Routes",
        "`key`: needs the API key, if one is set.",
        _table(("method", "path", "access", "answer"), routes),
        "## Fields",
        "Refused fields get an error that names them. Unknown fields are passed over, as by TGI. "
        "`POST /invocations` takes the bodies of `POST /`, of chats and of completions.",
    ]
    for body, places in _bodies().items():
        if "root" not in body.model_fields:
            parts.append("### " + ", ".join(places))
            parts.append(_table(("field", "type", "default", "status"), _field_rows(body)))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(render(), end="")
