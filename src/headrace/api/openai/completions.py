"""POST /v1/completions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from starlette.responses import Response

from headrace.api.compute_headers import generation_headers, stream_headers
from headrace.api.events import EventStream
from headrace.api.openai.conventions import Conventions, conventions_of
from headrace.api.openai.parts import ChunkEncoder, head, usage_of
from headrace.api.openai.schemas import CompletionRequest
from headrace.api.openai.translate import translate_completion
from headrace.api.ranking import rank
from headrace.api.service import Service
from headrace.text.generation import (
    Generation,
    GenerationRequest,
    PromptInfo,
    TextDelta,
    TokenText,
)


def logprobs_object(tokens: Sequence[TokenText], text_offset: int) -> dict[str, Any]:
    """OpenAI's `logprobs` of a completion choice; offsets count characters from `text_offset`."""
    offsets = []
    for token in tokens:
        offsets.append(text_offset)
        text_offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            None
            if token.logprob is None
            # Of several ids with the same text the likeliest counts, which is the last written.
            else {other.text: other.logprob for other in (token, *reversed(token.top))}
            for token in tokens
        ],
        "text_offset": offsets,
    }


def _echoed(request: GenerationRequest, prompt: PromptInfo) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return "".join(token.text for token in prompt.tokens)


class CompletionEncoder(ChunkEncoder):
    """The chunks of one completion stream, of one or several prompts."""

    def __init__(
        self,
        chunk_head: dict[str, Any],
        conventions: Conventions,
        requests: Sequence[GenerationRequest],
        body: CompletionRequest,
    ) -> None:
        super().__init__(chunk_head, conventions, with_usage=body.includes_usage)
        self._requests = requests
        self._echo = bool(body.echo)
        self._with_logprobs = body.logprobs is not None
        self._text_offsets: dict[int, int] = {}

    def delta(self, delta: TextDelta) -> bytes:
        number = delta.index // self._requests[0].n
        text, tokens = delta.text, delta.tokens
        if self.conventions.streams_special_tokens:
            text += "".join(token.text for token in tokens if token.special)
        if delta.prompt is not None:
            self.usage.add_prompt(number, delta.prompt.num_tokens)
            if self._echo:
                text = _echoed(self._requests[number], delta.prompt) + text
                tokens = delta.prompt.tokens + tokens
        choice = {
            "index": delta.index,
            "text": text,
            "logprobs": self._logprobs(delta.index, tokens) if self._with_logprobs else None,
            "finish_reason": self.conventions.completion_finish_reason(delta.finish),
        }
        with_usage = self.conventions.has_usage_at_finish
        return self.chunk(choice, number, delta.finish, with_usage=with_usage)

    def _logprobs(self, index: int, tokens: Sequence[TokenText]) -> dict[str, Any]:
        offset = self._text_offsets.get(index, 0)
        self._text_offsets[index] = offset + sum(len(token.text) for token in tokens)
        return logprobs_object(tokens, offset)


def _choice(
    generation: Generation,
    request: GenerationRequest,
    conventions: Conventions,
    body: CompletionRequest,
) -> dict[str, Any]:
    text, tokens = generation.text, generation.tokens
    if body.echo:
        text = _echoed(request, generation.prompt) + text
        tokens = [*generation.prompt.tokens, *tokens]
    return {
        "index": generation.index,
        "text": text,
        "logprobs": None if body.logprobs is None else logprobs_object(tokens, 0),
        "finish_reason": conventions.completion_finish_reason(generation.finish),
    }


def _best(
    generations: Sequence[Generation], requests: Sequence[GenerationRequest], n: int
) -> list[Generation]:
    """Of each prompt's sequences the n best, best first, numbered anew."""
    best_of = requests[0].n
    if best_of == n:
        return list(generations)
    groups = [generations[i : i + best_of] for i in range(0, len(generations), best_of)]
    kept = [generation for group in groups for generation in rank(group)[:n]]
    return [replace(generation, index=index) for index, generation in enumerate(kept)]


async def completions(service: Service, body: CompletionRequest) -> Response | EventStream:
    """One object, or a stream of chunks; choices are numbered prompt by prompt."""
    requests = translate_completion(service, body)
    conventions = conventions_of(service.settings)
    num_characters = sum(len(request.prompt) for request in requests)
    answer_head = head(service, "text_completion", "cmpl", body.model)
    if body.stream:
        encoder = CompletionEncoder(answer_head, conventions, requests, body)
        headers = stream_headers(service.compute_type, num_characters)
        return EventStream(service.stream(requests), encoder, headers)
    generations = await service.generate(requests)
    n, best_of = body.n or 1, requests[0].n
    usage = usage_of(
        (each.index // best_of, each.prompt.num_tokens, each.finish) for each in generations
    )
    choices = [
        _choice(each, requests[each.index // n], conventions, body)
        for each in _best(generations, requests, n)
    ]
    answer = {
        **answer_head,
        "choices": choices,
        "usage": usage.to_json(),
        "timings": usage.timings(),
    }
    headers = generation_headers(
        service.compute_type, num_characters, usage.finishes, usage.prompt_tokens
    )
    return Response(orjson.dumps(answer), 200, headers, "application/json")
