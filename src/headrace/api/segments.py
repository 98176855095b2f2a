"""A reply as segments that begin, grow and end one after another.

Anthropic calls them content blocks, the Responses API output items. Both take a stream's events,
and the whole answer, out of here.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from headrace.text.generation import Finish, PromptInfo, TextDelta, TokenText
from headrace.text.reply import ReplyParser
from headrace.text.reply_events import CallArguments, CallStart, Content, Reasoning, ReplyEvent
from headrace.types import FinishReason


@dataclass(slots=True)
class TextSegment:
    """Text for the reader."""

    text: str = ""
    tokens: list[TokenText] = field(default_factory=list)


@dataclass(slots=True)
class ReasoningSegment:
    """Text of the model to itself."""

    text: str = ""


@dataclass(slots=True)
class CallSegment:
    """A tool call; `text` is its arguments, JSON unless the reply was cut."""

    id: str
    name: str
    text: str = ""


Segment = TextSegment | ReasoningSegment | CallSegment


@dataclass(frozen=True, slots=True)
class Begin:
    """The segment at `index` begins, still empty."""

    index: int
    segment: Segment


@dataclass(frozen=True, slots=True)
class Grow:
    """More text of the segment at `index`; `tokens` are those since the text before."""

    index: int
    segment: Segment
    text: str
    tokens: tuple[TokenText, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """The segment at `index` is complete, or cut by the end of the reply."""

    index: int
    segment: Segment


Change = Begin | Grow | End


class ReplySegments:
    """The fold of one sequence's deltas, which tells what each of them changes."""

    def __init__(self, new_parser: Callable[[], ReplyParser] | None) -> None:
        self.prompt = PromptInfo(0)
        self.segments: list[Segment] = []
        self.finish: Finish | None = None
        self.num_reasoning_tokens = 0
        """From its first text to its end mark."""
        self._parser = None if new_parser is None else new_parser()
        self._is_open = False
        self._tokens: list[TokenText] = []

    @property
    def is_cut(self) -> bool:
        """Ended by the limit of its length."""
        return self.finish is not None and self.finish.reason is FinishReason.LENGTH

    @property
    def ends_in_calls(self) -> bool:
        """It ended by itself, with calls, all of them complete."""
        return self._parser is not None and self._parser.ends_in_calls and not self.is_cut

    async def read(self, deltas: AsyncGenerator[TextDelta, None]) -> Finish:
        """Take in all of them: the whole answer."""
        async with aclosing(deltas):
            async for delta in deltas:
                for _ in self.update(delta):
                    pass
        assert self.finish is not None
        return self.finish

    def update(self, delta: TextDelta) -> Iterator[Change]:
        """Take in a delta. At each change the segments are what they are just then."""
        if delta.prompt is not None:
            self.prompt = delta.prompt
        self._tokens += delta.tokens
        for event in self._events(delta):
            yield from self._apply(event)
        if self._is_open and isinstance(self.segments[-1], ReasoningSegment):
            self.num_reasoning_tokens += len(delta.tokens)
        if delta.finish is not None:
            self.finish = delta.finish
            yield from self._close()

    def _events(self, delta: TextDelta) -> list[ReplyEvent]:
        if self._parser is None:
            return [Content(delta.text)] if delta.text else []
        events = self._parser.feed(delta.text)
        return events if delta.finish is None else events + self._parser.finish()

    def _apply(self, event: ReplyEvent) -> Iterator[Change]:
        match event:
            case CallStart(_, id, name):
                yield from self._begin(CallSegment(id, name))
            case CallArguments(_, text):
                yield self._grow(text)
            case Content(text):
                yield from self._write(TextSegment, text)
            case Reasoning(text):
                yield from self._write(ReasoningSegment, text)

    def _write(
        self, kind: type[TextSegment] | type[ReasoningSegment], text: str
    ) -> Iterator[Change]:
        """Go on with a segment of this kind, or begin one."""
        if not (self._is_open and isinstance(self.segments[-1], kind)):
            yield from self._begin(kind())
        yield self._grow(text)

    def _begin(self, segment: Segment) -> Iterator[Change]:
        yield from self._close()
        self.segments.append(segment)
        self._is_open = True
        yield Begin(len(self.segments) - 1, segment)

    def _grow(self, text: str) -> Grow:
        segment, tokens = self.segments[-1], tuple(self._tokens)
        self._tokens.clear()
        segment.text += text
        if isinstance(segment, TextSegment):
            segment.tokens += tokens
        return Grow(len(self.segments) - 1, segment, text, tokens)

    def _close(self) -> Iterator[Change]:
        if not self._is_open:
            return
        self._is_open = False
        segment = self.segments[-1]
        if isinstance(segment, TextSegment) and self.finish is not None:
            segment.tokens += self._tokens  # of the end itself, which has no text
        yield End(len(self.segments) - 1, segment)
