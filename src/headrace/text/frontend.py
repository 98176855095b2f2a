"""From a generation request to text: tokenize, check lengths, run the engine, detokenize.

Knows the engine only as an `EngineClient`, and nothing of HTTP or of any dialect.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from headrace.errors import OverloadedError, TemplateError, ValidationError
from headrace.text.chat import ChatTemplate, Message
from headrace.text.chat_format import ChatFormat, detect_chat_format
from headrace.text.generation import Generation, GenerationRequest, TextDelta
from headrace.text.interleave import interleave
from headrace.text.sequence import SequenceText
from headrace.text.tokenizer import Encoding, Tokenizer
from headrace.types import (
    Add,
    EngineClient,
    EngineInfo,
    EngineStats,
    SamplingParams,
    TokenEvent,
)

SEED_BITS = 64
MAX_RESERVED_TOKENS = 1024
"""Of a request's new tokens, those that must fit behind its prompt at once."""


class Frontend:
    """Serves generation requests with one engine. Lives in one event loop."""

    def __init__(
        self,
        client: EngineClient,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        max_input_tokens: int | None = None,
        max_concurrent_requests: int = 128,
        validation_workers: int = 2,
    ) -> None:
        """`max_input_tokens`: None is all of the engine's max_total_tokens but one."""
        self.client = client
        self.tokenizer = tokenizer
        self._template = template
        self.chat_format = (
            ChatFormat()
            if template is None
            else detect_chat_format(template.sources, tokenizer.token_id)
        )
        self._max_input_tokens = max_input_tokens
        self._free_slots = max_concurrent_requests
        self._tokenizers = ThreadPoolExecutor(validation_workers, thread_name_prefix="tokenizer")
        # Its own thread: a template that hangs until its deadline must not keep others waiting.
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="chat-template")
        self._request_ids = itertools.count()

    @property
    def info(self) -> EngineInfo:
        """The engine's limits."""
        return self.client.info

    @property
    def stats(self) -> EngineStats:
        """The engine's last snapshot."""
        return self.client.stats

    @property
    def is_healthy(self) -> bool:
        """False while the engine is down or stuck."""
        return self.client.is_healthy

    @property
    def max_total_tokens(self) -> int:
        """Prompt and new tokens of one sequence, at most."""
        return self.info.max_total_tokens

    @property
    def max_input_tokens(self) -> int:
        """Tokens of a prompt, at most."""
        limit = self.max_total_tokens - 1
        return limit if self._max_input_tokens is None else min(limit, self._max_input_tokens)

    def close(self) -> None:
        """Stop the tokenizer threads and the template's process."""
        self._tokenizers.shutdown(cancel_futures=True)
        self._renderer.shutdown(cancel_futures=True)
        if self._template is not None:
            self._template.close()

    async def tokenize(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """Ids and character offsets of a text."""
        loop = asyncio.get_running_loop()
        encode = self.tokenizer.encode
        return await loop.run_in_executor(self._tokenizers, encode, text, add_special_tokens)

    async def render_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for these messages; tokenize it without special tokens.

        A final assistant message is continued. Raises TemplateError.
        """
        if self._template is None:
            raise TemplateError("template not found")
        render = partial(self._template.render, messages, tools, **variables)
        return await asyncio.get_running_loop().run_in_executor(self._renderer, render)

    async def generate(self, request: GenerationRequest) -> list[Generation]:
        """All sequences of a request, in order. Raises as `stream` does."""
        sequences: list[list[TextDelta]] = [[] for _ in range(request.n)]
        async with aclosing(self.stream(request)) as deltas:
            async for delta in deltas:
                sequences[delta.index].append(delta)
        return [_fold(deltas) for deltas in sequences]

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[TextDelta, None]:
        """Deltas of all sequences as they come. Closing the generator aborts the request.

        Raises ValidationError, OverloadedError, GenerationError, EngineDeadError.
        """
        if request.n > self._free_slots:
            raise OverloadedError
        self._free_slots -= request.n
        try:
            started = time.monotonic()
            prompt_ids = await self._prompt_ids(request)
            max_tokens = self._max_tokens(request, len(prompt_ids))
            first_seed = random.getrandbits(SEED_BITS) if request.seed is None else request.seed
            validation_time = time.monotonic() - started
            streams = [
                self._sequence(
                    index,
                    self._add(request, prompt_ids, max_tokens, first_seed + index),
                    request,
                    validation_time,
                )
                for index in range(request.n)
            ]
            async with aclosing(interleave(streams)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._free_slots += request.n

    async def _sequence(
        self, index: int, add: Add, request: GenerationRequest, validation_time: float
    ) -> AsyncGenerator[TextDelta, None]:
        sequence = SequenceText(index, add, request, self.tokenizer, validation_time)
        # Closing is part of the client's protocol: it is how a request is aborted.
        events = cast(AsyncGenerator[TokenEvent, None], self.client.generate(add))
        async with aclosing(events):
            async for event in events:
                delta = sequence.update(event)
                yield delta
                if delta.finish is not None:
                    return

    async def _prompt_ids(self, request: GenerationRequest) -> list[int]:
        """Token ids of the prompt, truncated as asked."""
        _check(request, self.info.vocab_size)
        ids = request.prompt
        if isinstance(ids, str):
            ids = (await self.tokenize(ids, request.add_special_tokens)).ids
        if request.truncate is not None:
            ids = ids[-request.truncate :]
        if not ids:
            raise ValidationError("`inputs` cannot be empty")
        return ids

    def _max_tokens(self, request: GenerationRequest, num_prompt_tokens: int) -> int:
        """New tokens to ask the engine for. Raises ValidationError when the lengths do not fit."""
        total, asked = self.max_total_tokens, request.max_new_tokens
        # TGI's rule: whoever asks for more than it looks at gets what fits.
        if asked is not None and num_prompt_tokens + min(asked, MAX_RESERVED_TOKENS) > total:
            raise ValidationError(
                f"`inputs` tokens + `max_new_tokens` must be <= {total}. "
                f"Given: {num_prompt_tokens} `inputs` tokens and {asked} `max_new_tokens`"
            )
        if num_prompt_tokens > self.max_input_tokens:
            raise ValidationError(
                f"`inputs` must have less than {self.max_input_tokens} tokens. "
                f"Given: {num_prompt_tokens}"
            )
        room = total - num_prompt_tokens
        return room if asked is None else min(max(asked, 1), room)

    def _add(
        self, request: GenerationRequest, prompt_ids: list[int], max_tokens: int, seed: int
    ) -> Add:
        # Where its grammar ends, so must a sequence.
        ignores_eos = request.ignore_eos and request.grammar is None
        eos_token_ids = () if ignores_eos else self.tokenizer.eos_token_ids
        params = SamplingParams(
            max_tokens=max_tokens,
            min_tokens=request.min_new_tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            typical_p=request.typical_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            logit_bias=request.logit_bias,
            seed=seed % 2**SEED_BITS,
            stop_token_ids=frozenset(request.stop_token_ids) | frozenset(eos_token_ids),
            num_top_logprobs=request.num_top_logprobs,
            prompt_logprobs=request.prompt_logprobs,
            grammar=request.grammar,
            watermark=request.watermark,
        )
        return Add(
            request_id=next(self._request_ids),
            prompt_ids=prompt_ids,
            params=params,
            cache_salt=request.cache_salt,
            priority=request.priority,
        )


def _check(request: GenerationRequest, vocab_size: int) -> None:
    """What depends on the model, but not on the tokenized prompt."""
    if request.grammar is not None and request.min_new_tokens:
        raise ValidationError("`min_new_tokens` must not be set when `grammar` is")
    if "" in request.stop:
        raise ValidationError("`stop` must not contain empty strings")
    ids: dict[str, Iterable[int]] = {
        "inputs": () if isinstance(request.prompt, str) else request.prompt,
        "logit_bias": request.logit_bias,
        "stop_token_ids": request.stop_token_ids,
    }
    for name, values in ids.items():
        for token_id in values:
            if not 0 <= token_id < vocab_size:
                raise ValidationError(
                    f"`{name}` must have token ids >= 0 and < {vocab_size}. Given: {token_id}"
                )


def _fold(deltas: list[TextDelta]) -> Generation:
    """All deltas of one sequence as one answer."""
    prompt, finish = deltas[0].prompt, deltas[-1].finish
    assert prompt is not None and finish is not None
    tokens = [token for delta in deltas for token in delta.tokens]
    return Generation(deltas[0].index, prompt, finish.text, tokens, finish)
