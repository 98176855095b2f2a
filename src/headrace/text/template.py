"""Compile and render Jinja chat templates the way Hugging Face's tokenizers do.

Knows Jinja only. Templates are untrusted: the sandbox keeps them from reaching Python's
internals, but not from running forever, hence `template_process`. Imports stay few, because that
process starts with them.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _GenerationBlock(Extension):
    """`{% generation %}` marks what an assistant wrote, for training; its body is the text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which prompts must not have."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class TemplateSet:
    """Compiled templates by name."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        """Raises jinja2.TemplateSyntaxError (among others) for a source that does not compile."""
        environment = _environment()
        self._templates = {name: environment.from_string(s) for name, s in sources.items()}

    def render(self, name: str, variables: Mapping[str, Any]) -> str:
        """Raises whatever the template provokes, jinja2.TemplateError for its own refusals."""
        return self._templates[name].render(**variables)
