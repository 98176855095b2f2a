"""Split a model's text into content, reasoning and tool calls while it comes.

One state machine for all formats. The result does not depend on where the text was cut, no text is
lost, and what cannot become a marker any more is passed on at once. Knows no dialect.
Hot file: `ReplyParser.feed` runs once per delta and stream.
"""

from headrace.text.reasoning import ReasoningMarkers
from headrace.text.reply_events import Content, Reasoning, ReplyEvent
from headrace.text.stop import StopMatcher
from headrace.text.tools.calls import CallRules, Calls, NotACall
from headrace.text.tools.format import ToolFormat
from headrace.text.tools.reading import Reader


class ReplyParser:
    """The parser of one reply. Feed every delta's text, then finish.

    White space beside a marker belongs to the format and is not passed on.
    """

    def __init__(
        self,
        format: ToolFormat,
        rules: CallRules | None,
        reasoning: ReasoningMarkers | None,
        *,
        in_reasoning: bool = False,
    ) -> None:
        """`rules`: None when no tool may be called. `reasoning`: None when it stays in the
        content. `in_reasoning`: the prompt has opened it."""
        self._format = format
        self._calls = Calls(rules or CallRules(names=frozenset()))
        self._may_call = rules is not None
        self._reasoning = reasoning
        self._events: list[ReplyEvent] = []
        self._reader: Reader | None = None
        self._is_start = True
        self._space = ""
        self._skips_space = in_reasoning
        self._kind: type[Content] | type[Reasoning] = Reasoning if in_reasoning else Content
        self._finder = self._new_finder()

    @property
    def ends_in_calls(self) -> bool:
        """The reply has calls, and all of them are complete."""
        return bool(self._calls.count) and not self._calls.is_open and not self._calls.is_cut

    def feed(self, text: str) -> list[ReplyEvent]:
        """What the text adds."""
        while text:
            text = self._read_text(text) if self._reader is None else self._read_calls(text)
        return self._take_events()

    def finish(self) -> list[ReplyEvent]:
        """End of the reply: what was held back is content, unless it only closes a call."""
        if self._reader is not None:
            is_content = self._calls.is_reading
            left = self._give_up_calls()
            if is_content:
                self._add(left)
        self._add(self._finder.flush())
        if self._space:
            self._report(self._space)
        return self._take_events()

    def _new_finder(self) -> StopMatcher:
        """Finds the markers that count from here on."""
        if self._kind is Reasoning:
            assert self._reasoning is not None
            return StopMatcher((self._reasoning.end,))
        markers: list[str] = []
        if self._may_call and not self._calls.is_full:
            markers.append(self._format.marker)
            if self._format.is_bare and self._is_start:
                markers.append("{")
        if self._reasoning is not None and self._is_start:
            markers.append(self._reasoning.start)
        return StopMatcher(tuple(markers))

    def _read_text(self, text: str) -> str:
        """Pass on text up to the next marker; returns what follows it."""
        finder = self._finder
        self._add(finder.feed(text))
        if finder.match is None:
            return ""
        if self._kind is Reasoning:
            self._switch(Content)
        elif finder.match == self._format.marker:
            self._begin_calls(finder.match)
        elif not self._is_start:  # a marker that counts at the start of a reply only
            self._add(finder.match)
            self._finder = self._new_finder()
        elif finder.match == "{":
            self._begin_calls("")
            return "{" + finder.rest
        else:
            self._switch(Reasoning)
        return finder.rest

    def _switch(self, kind: type[Content] | type[Reasoning]) -> None:
        self._kind = kind
        self._space = ""
        self._skips_space = True
        self._finder = self._new_finder()

    def _begin_calls(self, marker: str) -> None:
        self._is_start = False
        self._calls.unreported += (self._space, marker)
        self._calls.is_reading = True
        self._space = ""
        self._reader = self._format.read(self._calls)
        next(self._reader)

    def _read_calls(self, text: str) -> str:
        """Let the reader go on; returns the text behind the calls."""
        assert self._reader is not None
        unreported = self._calls.unreported
        for position, character in enumerate(text):
            unreported.append(character)
            try:
                self._reader.send(character)
            except StopIteration:
                unreported.clear()
                self._end_calls(skips_space=True)
                return text[position + 1 :]
            except NotACall:
                unreported.pop()
                self._add(self._give_up_calls())
                return text[position:]
        return ""

    def _give_up_calls(self) -> str:
        """Read text again; returns what was read as part of a call and is none."""
        is_behind_call = not self._calls.is_reading
        left = self._calls.fail()
        self._end_calls(skips_space=is_behind_call)
        return left

    def _end_calls(self, *, skips_space: bool) -> None:
        self._reader = None
        self._events += self._calls.take_events()
        self._skips_space = skips_space
        self._finder = self._new_finder()

    def _add(self, text: str) -> None:
        """More text; white space waits until it is known what follows."""
        if self._skips_space:
            text = text.lstrip()
        body = text.rstrip()
        if not body:
            self._space += text
            return
        self._skips_space = False
        if self._kind is Content:
            self._is_start = False
        self._report(self._space + body)
        self._space = text[len(body) :]

    def _report(self, text: str) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(last, self._kind):
            self._events[-1] = self._kind(last.text + text)
        else:
            self._events.append(self._kind(text))

    def _take_events(self) -> list[ReplyEvent]:
        if self._reader is not None:
            self._events += self._calls.take_events()
        events, self._events = self._events, []
        return events
