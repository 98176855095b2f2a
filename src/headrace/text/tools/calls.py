"""What a format's reader reports: calls that begin, grow and end.

Keeps the text that is not reported yet, so that a call that turns out to be none can be sent as
ordinary text instead.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.text.reply_events import CallArguments, CallStart, ReplyEvent


class NotACall(Exception):
    """The text does not follow the format; raised by readers, never shown to users."""


def new_call_id() -> str:
    """An id as OpenAI's look."""
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRules:
    """Which calls are reported, and when."""

    names: frozenset[str]
    max_calls: int | None = None
    is_eager: bool = False
    """True: arguments are reported while they come. Only for calls that a grammar constrains;
    others are reported when they are complete and known to be valid."""
    new_id: Callable[[], str] = new_call_id


class Calls:
    """Collects the calls of one reply."""

    def __init__(self, rules: CallRules) -> None:
        self._rules = rules
        self._events: list[ReplyEvent] = []
        self._name = ""
        self._arguments: list[str] = []
        self.count = 0
        """Calls that have ended."""
        self.is_open = False
        """A call has been reported whose arguments are not complete."""
        self.is_cut = False
        """A reported call has no end."""
        self.is_reading = False
        """The unreported text is a call, not what stands between and behind calls."""
        self.unreported: list[str] = []

    @property
    def is_full(self) -> bool:
        """No further call is allowed."""
        return self._rules.max_calls is not None and self.count >= self._rules.max_calls

    def begin(self, name: str) -> None:
        """The arguments of a call follow. Raises NotACall for a name that is no tool's."""
        if name not in self._rules.names or self.is_full:
            raise NotACall
        self._name = name
        if self._rules.is_eager:
            self._report_start()

    def add(self, text: str) -> None:
        """More of the arguments."""
        self._arguments.append(text)
        if self._rules.is_eager:
            self.unreported.clear()

    def end(self) -> None:
        """The arguments are complete. Raises NotACall if they are no JSON object."""
        if not self.is_open:
            check_object("".join(self._arguments))
            self._report_start()
        self._report_arguments()
        self.unreported.clear()
        self.is_open = self.is_reading = False
        self.count += 1

    def fail(self) -> str:
        """Give up the call that was none, or was cut; returns the text that nobody has seen."""
        text = "".join(self.unreported)
        self.unreported.clear()
        if self.is_open:
            self._report_arguments()
            self.count += 1
            self.is_cut = True
        self._arguments.clear()
        self.is_open = self.is_reading = False
        return text

    def take_events(self) -> list[ReplyEvent]:
        """What is to be reported since the last time."""
        if self.is_open:
            self._report_arguments()
        events, self._events = self._events, []
        return events

    def _report_start(self) -> None:
        self._events.append(CallStart(self.count, self._rules.new_id(), self._name))
        self.is_open = True

    def _report_arguments(self) -> None:
        if self._arguments:
            self._events.append(CallArguments(self.count, "".join(self._arguments)))
            self._arguments.clear()


def check_object(text: str) -> dict[str, Any]:
    """The JSON object that a text is. Raises NotACall."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        raise NotACall from None
    if not isinstance(value, dict):
        raise NotACall
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
