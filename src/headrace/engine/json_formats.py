"""Formats of a JSON schema that the grammar library takes too loosely, as exact patterns.

It lets every year have a 29th of February and any minute a leap second. Here dates are those of the
calendar, and seconds end at 59: leap seconds are rare, and what reads the text mostly refuses them.
"""

from collections.abc import Mapping
from typing import Any, Final

_LEAP_YEAR = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
_MONTH_AND_DAY = (
    r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    r"|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_HOUR_AND_MINUTE = r"([01][0-9]|2[0-3]):[0-5][0-9]"
DATE: Final = rf"([0-9]{{4}}-{_MONTH_AND_DAY}|{_LEAP_YEAR}-02-29)"
TIME: Final = rf"{_HOUR_AND_MINUTE}:[0-5][0-9](\.[0-9]+)?([Zz]|[+-]{_HOUR_AND_MINUTE})"
PATTERNS: Final[Mapping[str, str]] = {
    "date": f"^{DATE}$",
    "time": f"^{TIME}$",
    "date-time": f"^{DATE}[Tt]{TIME}$",
}

_MAPS_OF_SCHEMAS = {"$defs", "definitions", "properties", "patternProperties"}
_NO_SCHEMAS = {"const", "enum", "default", "examples"}


def with_exact_formats(schema: Any) -> Any:
    """The schema with patterns in place of these formats, wherever it has them."""
    if isinstance(schema, list):
        return list(map(with_exact_formats, schema))
    if not isinstance(schema, dict):
        return schema
    exact = {keyword: _value(keyword, value) for keyword, value in schema.items()}
    form = schema.get("format")
    if isinstance(form, str) and form in PATTERNS:
        del exact["format"]
        others = exact.get("allOf", [])
        pattern = {"pattern": PATTERNS[form]}
        # A pattern of the schema's own holds too.
        exact |= {"allOf": [*others, pattern]} if "pattern" in exact else pattern
    return exact


def _value(keyword: str, value: Any) -> Any:
    if keyword in _NO_SCHEMAS:
        return value
    if keyword in _MAPS_OF_SCHEMAS and isinstance(value, dict):
        return {name: with_exact_formats(schema) for name, schema in value.items()}
    return with_exact_formats(value)
