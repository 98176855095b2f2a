"""POST /v1/chat/completions."""

from collections.abc import Iterable
from typing import Any

import orjson
from starlette.responses import Response

from headrace.api.compute_headers import generation_headers, stream_headers
from headrace.api.errors import to_openai_event
from headrace.api.events import EventStream, frame
from headrace.api.openai.parts import Usage, finish_reason, head, usage_of
from headrace.api.openai.schemas import ChatRequest
from headrace.api.openai.translate import translate_chat
from headrace.api.service import Service
from headrace.errors import HeadraceError
from headrace.text.generation import Generation, TextDelta, TokenText


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


def _choice(generation: Generation, *, with_logprobs: bool) -> dict[str, Any]:
    return {
        "index": generation.index,
        "message": {"role": "assistant", "content": generation.text},
        "logprobs": logprobs_object(generation.tokens) if with_logprobs else None,
        "finish_reason": finish_reason(generation.finish),
    }


class ChatEncoder:
    """The chunks of one chat stream."""

    def __init__(
        self, chunk_head: dict[str, Any], *, with_logprobs: bool, with_usage: bool
    ) -> None:
        self._head = chunk_head
        self._with_logprobs = with_logprobs
        self._with_usage = with_usage
        self._usage = Usage()

    def delta(self, delta: TextDelta) -> bytes:
        if delta.prompt is not None:
            self._usage.add_prompt(0, delta.prompt.num_tokens)
            message = {"role": "assistant", "content": delta.text}
        else:
            message = {"content": delta.text}
        if delta.finish is not None:
            self._usage.add_finish(0, delta.finish)
        choice = {
            "index": delta.index,
            "delta": message,
            "logprobs": logprobs_object(delta.tokens) if self._with_logprobs else None,
            "finish_reason": finish_reason(delta.finish),
        }
        return frame(orjson.dumps({**self._head, "choices": [choice], "usage": None}))

    def end(self) -> bytes:
        done = frame(b"[DONE]")
        if not self._with_usage:
            return done
        last = {**self._head, "choices": [], "usage": self._usage.to_json()}
        return frame(orjson.dumps(last)) + done

    def error(self, error: HeadraceError) -> bytes:
        return frame(to_openai_event(error)) + frame(b"[DONE]")


async def chat_completions(service: Service, body: ChatRequest) -> Response | EventStream:
    """One object, or a stream of chunks."""
    request = await translate_chat(service, body)
    device, num_characters = service.frontend.info.device, len(request.prompt)
    with_logprobs = bool(body.logprobs)
    if body.stream:
        encoder = ChatEncoder(
            head(service, "chat.completion.chunk", "chatcmpl", body.model),
            with_logprobs=with_logprobs,
            with_usage=body.includes_usage,
        )
        headers = stream_headers(device, num_characters)
        return EventStream(service.stream([request]), encoder, headers)
    generations = await service.generate([request])
    usage = usage_of((0, each.prompt.num_tokens, each.finish) for each in generations)
    answer = {
        **head(service, "chat.completion", "chatcmpl", body.model),
        "choices": [_choice(each, with_logprobs=with_logprobs) for each in generations],
        "usage": usage.to_json(),
    }
    headers = generation_headers(device, num_characters, generations, usage.prompt_tokens)
    return Response(orjson.dumps(answer), 200, headers, "application/json")
