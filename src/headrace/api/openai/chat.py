"""POST /v1/chat/completions."""

from collections.abc import Iterable
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


def _choice(
    generation: Generation, conventions: Conventions, *, with_logprobs: bool
) -> dict[str, Any]:
    return {
        "index": generation.index,
        "message": {"role": "assistant", "content": generation.text},
        "logprobs": logprobs_object(generation.tokens) if with_logprobs else None,
        "finish_reason": conventions.chat_finish_reason(generation.finish),
    }


class ChatEncoder(ChunkEncoder):
    """The chunks of one chat stream."""

    def __init__(
        self, chunk_head: dict[str, Any], conventions: Conventions, body: ChatRequest
    ) -> None:
        super().__init__(chunk_head, conventions, with_usage=body.includes_usage)
        self._with_logprobs = bool(body.logprobs)

    def delta(self, delta: TextDelta) -> bytes:
        if delta.prompt is not None:
            self.usage.add_prompt(0, delta.prompt.num_tokens)
        names_role = delta.prompt is not None or self.conventions.repeats_role
        message = {"role": "assistant"} if names_role else {}
        message["content"] = delta.text
        choice = {
            "index": delta.index,
            "delta": message,
            "logprobs": logprobs_object(delta.tokens) if self._with_logprobs else None,
            "finish_reason": self.conventions.chat_finish_reason(delta.finish),
        }
        return self.chunk(choice, 0, delta.finish)


async def chat_completions(service: Service, body: ChatRequest) -> Response | EventStream:
    """One object, or a stream of chunks."""
    request = await translate_chat(service, body)
    conventions = conventions_of(service.settings)
    compute_type, num_characters = service.compute_type, len(request.prompt)
    if body.stream:
        chunk_head = head(service, "chat.completion.chunk", "chatcmpl", body.model)
        headers = stream_headers(compute_type, num_characters)
        encoder = ChatEncoder(chunk_head, conventions, body)
        return EventStream(service.stream([request]), encoder, headers)
    generations = await service.generate([request])
    with_logprobs = bool(body.logprobs)
    usage = usage_of((0, each.prompt.num_tokens, each.finish) for each in generations)
    answer = {
        **head(service, "chat.completion", "chatcmpl", body.model),
        "choices": [
            _choice(each, conventions, with_logprobs=with_logprobs) for each in generations
        ],
        "usage": usage.to_json(),
        "timings": usage.timings(),
    }
    headers = generation_headers(compute_type, num_characters, generations, usage.prompt_tokens)
    return Response(orjson.dumps(answer), 200, headers, "application/json")
