"""The pieces that readers of tool calls are made of.

A reader is a generator that is sent one character at a time, so that it cannot matter where the
text was cut. It returns when the calls are over and raises NotACall at the first character that
does not fit.
"""

import json
import re
from collections.abc import Generator
from typing import Any, TypeVar

from headrace.text.tools.calls import Calls, NotACall, check_object

T = TypeVar("T")
Reading = Generator[None, str, T]
Reader = Reading[None]

MAX_DEPTH = 64
"""Nesting of a call's JSON; json.loads would exhaust the stack on very deep input."""
MAX_HEAD = 1024
"""Characters between the start of a call and its arguments, to be looked at once per brace."""

HEAD = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*')
_OUTSIDE_STRINGS = frozenset(
    '{}[]:,"+-. \t\r\n0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'
)


class JsonScanner:
    """Finds the end of a JSON object without parsing it.

    Stops early only at what cannot stand outside strings; validity is checked in the end.
    """

    __slots__ = ("_is_escaped", "_is_string", "depth")

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        """Objects and arrays that are open; 0 after the end."""
        self._is_string = False
        self._is_escaped = False

    def feed(self, character: str) -> None:
        """Take one character. Raises NotACall."""
        if self._is_string:
            if self._is_escaped:
                self._is_escaped = False
            elif character == "\\":
                self._is_escaped = True
            else:
                self._is_string = character != '"'
        elif character in "{[":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise NotACall
        elif character in "}]":
            self.depth -= 1
        elif character not in _OUTSIDE_STRINGS:
            raise NotACall
        else:
            self._is_string = character == '"'


def skip_space() -> Reading[str]:
    """The first character that is no white space."""
    character = yield
    while character.isspace():
        character = yield
    return character


def expect(text: str, first: str) -> Reader:
    """Exactly `text`, whose first character is there already."""
    character = first
    for position, expected in enumerate(text):
        if position:
            character = yield
        if character != expected:
            raise NotACall


def read_arguments(calls: Calls, name: str, first: str) -> Reader:
    """An object with the arguments of a call to `name`."""
    if first != "{":
        raise NotACall
    calls.begin(name)
    scanner, character = JsonScanner(), first
    while True:
        scanner.feed(character)
        calls.add(character)
        if not scanner.depth:
            break
        character = yield
    calls.end()


def read_call(calls: Calls, first: str) -> Reader:
    """An object with the name and the arguments of a call.

    In the usual order (name, then arguments) the arguments are passed on as they were written;
    an object of another shape is understood as a whole.
    """
    if first != "{":
        raise NotACall
    calls.is_reading = True
    scanner, text, character = JsonScanner(), "", first
    while True:
        scanner.feed(character)
        if scanner.depth == 2 and character == "{" and len(text) < MAX_HEAD:
            head = HEAD.fullmatch(text)
            if head is not None:
                yield from read_arguments(calls, head[1], character)
                yield from _rest_of_object()
                return
        text += character
        if not scanner.depth:
            break
        character = yield
    _take_whole(calls, check_object(text))


def _rest_of_object() -> Reader:
    """What follows the arguments: further keys, which have no meaning here, and the end."""
    scanner = JsonScanner(depth=1)
    character = yield from skip_space()
    if character not in ",}":
        raise NotACall
    while True:
        scanner.feed(character)
        if not scanner.depth:
            return
        character = yield


def _take_whole(calls: Calls, call: dict[str, Any]) -> None:
    """A call whose keys come in another order, whose arguments are a string, or are missing."""
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NotACall
    given = function.get("arguments", function.get("parameters"))
    # Escapes stay escapes: half a surrogate pair could not be sent otherwise.
    arguments = given if isinstance(given, str) else json.dumps(given or {})
    check_object(arguments)
    calls.begin(function["name"])
    calls.add(arguments)
    calls.end()
