"""Formats as patterns, against the standard library's calendar."""

import datetime
import re

from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.json_formats import DATE, PATTERNS, TIME, with_exact_formats


def is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def test_all_days_of_four_centuries() -> None:
    pattern = re.compile(DATE)
    for year in range(1801, 2201):
        for month in (2, 4, 12):
            for day in range(28, 33):
                text = f"{year:04}-{month:02}-{day:02}"
                assert bool(pattern.fullmatch(text)) == is_date(text), text


@given(st.integers(1, 9999), st.integers(0, 14), st.integers(0, 33))
def test_dates(year: int, month: int, day: int) -> None:
    text = f"{year:04}-{month:02}-{day:02}"
    assert bool(re.fullmatch(DATE, text)) == is_date(text)


@given(st.tuples(*(st.integers(0, most) for most in (26, 62, 62, 26, 62))), st.booleans())
def test_times(parts: tuple[int, ...], is_ahead: bool) -> None:
    hour, minute, second, offset_hour, offset_minute = parts
    sign = "+" if is_ahead else "-"
    text = f"{hour:02}:{minute:02}:{second:02}{sign}{offset_hour:02}:{offset_minute:02}"
    try:
        datetime.time.fromisoformat(text)
        # The standard library's offsets end at a day, less a microsecond.
        expected = offset_minute < 60
    except ValueError:
        expected = False
    assert bool(re.fullmatch(TIME, text)) == expected


def test_where_formats_stand() -> None:
    date = {"type": "string", "format": "date"}
    exact = {"type": "string", "pattern": PATTERNS["date"]}
    schema = {
        "$defs": {"day": date},
        "properties": {"format": date, "pattern": {"const": date}, "x": {"format": "uuid"}},
        "items": [date, True],
        "anyOf": [{"additionalProperties": date}],
        "enum": [date],
    }
    assert with_exact_formats(schema) == {
        "$defs": {"day": exact},
        "properties": {"format": exact, "pattern": {"const": date}, "x": {"format": "uuid"}},
        "items": [exact, True],
        "anyOf": [{"additionalProperties": exact}],
        "enum": [date],
    }


def test_both_patterns_hold() -> None:
    schema = {"format": "time", "pattern": "Z$", "allOf": [{"maxLength": 9}]}
    assert with_exact_formats(schema) == {
        "pattern": "Z$",
        "allOf": [{"maxLength": 9}, {"pattern": PATTERNS["time"]}],
    }
