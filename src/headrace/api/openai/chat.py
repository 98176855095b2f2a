"""POST /v1/chat/completions."""

from collections.abc import Callable, Iterable
from typing import Any

import orjson
from starlette.responses import Response

from headrace.api.compute_headers import generation_headers, stream_headers
from headrace.api.events import EventStream
from headrace.api.openai.conventions import Conventions, conventions_of
from headrace.api.openai.parts import ChunkEncoder, head, usage_of
from headrace.api.openai.schemas import ChatRequest
from headrace.api.openai.translate import translate_chat
from headrace.api.service import Service
from headrace.text.generation import Finish, Generation, TextDelta, TokenText
from headrace.text.reply import ReplyParser
from headrace.text.reply_events import (
    CallArguments,
    CallStart,
    Content,
    Reasoning,
    Reply,
    ReplyEvent,
    fold,
)
from headrace.types import FinishReason

NewParser = Callable[[], ReplyParser] | None


def _token(token: TokenText) -> dict[str, Any]:
    return {
        "token": token.text,
        "logprob": token.logprob,
        "bytes": list(token.text.encode()),
    }


def logprobs_object(tokens: Iterable[TokenText]) -> dict[str, Any]:
    """OpenAI's `logprobs` of a chat choice."""
    content = [_token(token) | {"top_logprobs": list(map(_token, token.top))} for token in tokens]
    return {"content": content}


def _ends_in_calls(finish: Finish | None, parser: ReplyParser | None) -> bool:
    is_whole = finish is not None and finish.reason is not FinishReason.LENGTH
    return is_whole and parser is not None and parser.ends_in_calls


def _function_call(id: str, name: str | None, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _message(reply: Reply, conventions: Conventions) -> dict[str, Any]:
    """The whole message; content is null when there are only calls."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if not reply.calls:
        return message
    calls = [_function_call(call.id, call.name, call.arguments) for call in reply.calls]
    if not conventions.call_is_spelled_out:
        return message | {"content": reply.content or None, "tool_calls": calls}
    for call in calls:
        call["function"] = {"description": None, **call["function"]}
    return {"role": "assistant", "tool_calls": calls}


def _choice(
    generation: Generation, conventions: Conventions, new_parser: NewParser, *, with_logprobs: bool
) -> dict[str, Any]:
    parser = None if new_parser is None else new_parser()
    if parser is None:
        reply = Reply(content=generation.text)
    else:
        reply = fold(parser.feed(generation.text) + parser.finish())
    ends_in_calls = _ends_in_calls(generation.finish, parser)
    reason = conventions.chat_finish_reason(generation.finish)
    return {
        "index": generation.index,
        "message": _message(reply, conventions),
        "logprobs": logprobs_object(generation.tokens) if with_logprobs else None,
        "finish_reason": conventions.calls_reason if ends_in_calls else reason,
    }


class Fragments:
    """The `delta`s of one streamed message."""

    def __init__(self, conventions: Conventions) -> None:
        self._call_is_spelled_out = conventions.call_is_spelled_out
        self._call_ids: list[str] = []

    def of(self, event: ReplyEvent) -> dict[str, Any]:
        """What the event adds."""
        match event:
            case Content(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning_content": text}
            case CallStart(index, id, name):
                self._call_ids.append(id)
                call = _function_call(id, name, "")
            case CallArguments(index, text) if self._call_is_spelled_out:
                call = _function_call(self._call_ids[index], None, text)
            case CallArguments(index, text):
                call = {"function": {"arguments": text}}
        return {"tool_calls": [{"index": index, **call}]}


class ChatEncoder(ChunkEncoder):
    """The chunks of one chat stream."""

    def __init__(
        self,
        chunk_head: dict[str, Any],
        conventions: Conventions,
        body: ChatRequest,
        new_parser: NewParser,
    ) -> None:
        super().__init__(chunk_head, conventions, with_usage=body.includes_usage)
        self._with_logprobs = bool(body.logprobs)
        count = 1 if body.n is None else body.n
        self._parsers = [None if new_parser is None else new_parser() for _ in range(count)]
        self._fragments = [Fragments(conventions) for _ in range(count)]

    def delta(self, delta: TextDelta) -> bytes:
        parser = self._parsers[delta.index]
        fragments = [{"content": delta.text}] if parser is None else self._parse(parser, delta)
        if delta.prompt is not None:
            self.usage.add_prompt(0, delta.prompt.num_tokens)
        if self.conventions.repeats_role:
            fragments = [{"role": "assistant"} | fragment for fragment in fragments]
        elif delta.prompt is not None:
            opening: dict[str, Any] = {"role": "assistant", "content": None}
            fragments[:1] = [opening | (fragments[0] if fragments else {})]
        return b"".join(
            self._chunk(delta, fragment, number, is_last=number == len(fragments))
            for number, fragment in enumerate(fragments, 1)
        )

    def _chunk(
        self, delta: TextDelta, fragment: dict[str, Any], number: int, *, is_last: bool
    ) -> bytes:
        """The finish goes with a delta's last fragment."""
        finish = delta.finish if is_last else None
        reason = self.conventions.chat_finish_reason(finish)
        if _ends_in_calls(finish, self._parsers[delta.index]):
            reason = self.conventions.streamed_calls_reason
        choice = {
            "index": delta.index,
            "delta": fragment,
            "logprobs": self._logprobs(delta, is_first=number == 1),
            "finish_reason": reason,
        }
        return self.chunk(choice, 0, finish)

    def _parse(self, parser: ReplyParser, delta: TextDelta) -> list[dict[str, Any]]:
        """What a delta adds to the message; an empty fragment carries the finish reason, or
        log-probabilities of tokens whose text is held back."""
        events = parser.feed(delta.text)
        if delta.finish is not None:
            events += parser.finish()
        fragments = list(map(self._fragments[delta.index].of, events))
        if delta.finish is not None or (self._with_logprobs and not fragments):
            fragments.append({})
        return fragments

    def _logprobs(self, delta: TextDelta, *, is_first: bool) -> dict[str, Any] | None:
        """All tokens of a delta go with its first chunk."""
        return logprobs_object(delta.tokens) if self._with_logprobs and is_first else None


async def chat_completions(service: Service, body: ChatRequest) -> Response | EventStream:
    """One object, or a stream of chunks."""
    turn = await translate_chat(service, body)
    request, conventions = turn.request, conventions_of(service.settings)
    compute_type, num_characters = service.compute_type, len(request.prompt)
    if body.stream:
        chunk_head = head(service, "chat.completion.chunk", "chatcmpl", body.model)
        headers = stream_headers(compute_type, num_characters)
        encoder = ChatEncoder(chunk_head, conventions, body, turn.new_parser)
        return EventStream(service.stream([request]), encoder, headers)
    generations = await service.generate([request])
    usage = usage_of((0, each.prompt.num_tokens, each.finish) for each in generations)
    with_logprobs = bool(body.logprobs)
    answer = {
        **head(service, "chat.completion", "chatcmpl", body.model),
        "choices": [
            _choice(each, conventions, turn.new_parser, with_logprobs=with_logprobs)
            for each in generations
        ],
        "usage": usage.to_json(),
        "timings": usage.timings(),
    }
    headers = generation_headers(compute_type, num_characters, usage.finishes, usage.prompt_tokens)
    return Response(orjson.dumps(answer), 200, headers, "application/json")
