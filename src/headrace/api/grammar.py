"""`grammar` and `response_format`: TGI's and OpenAI's spellings of one thing."""

from typing import Any, Literal

import orjson
from pydantic import Field

from headrace.api.schema import Body
from headrace.errors import ValidationError
from headrace.types import Grammar

ANY_OBJECT = {"type": "object"}


class NamedSchema(Body):
    """OpenAI's `json_schema`. It is always followed strictly."""

    name: str | None = None
    description: str | None = None
    json_schema: dict[str, Any] | bool = Field(ANY_OBJECT, alias="schema")
    strict: bool | None = None


class OutputFormat(Body):
    """The form that the generated text must have.

    TGI puts the schema or the pattern into `value`, OpenAI puts a schema into `json_schema`.
    """

    type: Literal["text", "json", "json_object", "json_schema", "regex", "lark"]
    value: Any = None
    json_schema: NamedSchema | None = None


def to_grammar(form: OutputFormat | None) -> Grammar | None:
    """The form as the engine takes it; None for free text. Raises ValidationError."""
    if form is None or form.type == "text":
        return None
    if form.type in ("regex", "lark"):
        if not isinstance(form.value, str):
            raise _invalid(f"`value` of a {form.type} must be a string")
        return Grammar(kind=form.type, source=form.value)
    return Grammar(kind="json", source=orjson.dumps(_schema(form)).decode())


def _schema(form: OutputFormat) -> Any:
    if form.type == "json_schema" and form.json_schema is not None:
        return form.json_schema.json_schema
    if form.type == "json_object" and form.value is None:
        return ANY_OBJECT
    schema = form.value
    if form.type == "json_schema":
        schema = schema.get("schema") if isinstance(schema, dict) else None
    if isinstance(schema, str):
        schema = _parse(schema)
    if not isinstance(schema, dict):
        raise _invalid(f"a {form.type} needs a schema: an object, or its text")
    if "properties" not in schema:
        raise _invalid("Grammar must have a 'properties' field")
    return schema


def _parse(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _invalid(str(error)) from None


def _invalid(reason: str) -> ValidationError:
    return ValidationError(f"grammar is not valid: {reason}")
