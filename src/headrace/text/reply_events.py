"""What a reply consists of, whatever the model's format and the client's dialect."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model to itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins; calls are numbered from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, which are JSON when they are complete."""

    index: int
    text: str


ReplyEvent = Content | Reasoning | CallStart | CallArguments


@dataclass(slots=True)
class ToolCall:
    """One whole call."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Reply:
    """The fold of a reply's events: the non-streaming answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)


def fold(events: Iterable[ReplyEvent]) -> Reply:
    """All events of one reply."""
    reply = Reply()
    for event in events:
        match event:
            case Content(text):
                reply.content += text
            case Reasoning(text):
                reply.reasoning += text
            case CallStart(_, id, name):
                reply.calls.append(ToolCall(id, name))
            case CallArguments(index, text):
                reply.calls[index].arguments += text
    return reply
