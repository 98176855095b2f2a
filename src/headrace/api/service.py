"""What every handler works with: the front end, the settings, the served model, the metrics."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from headrace.api.compute_headers import describe_device
from headrace.api.parameters import Limits
from headrace.config import Settings
from headrace.observability.metrics import Metrics
from headrace.observability.tracing import Tracing
from headrace.text.chat_format import ChatFormat
from headrace.text.generation import Finish, Generation, GenerationRequest, TextDelta
from headrace.text.interleave import interleave
from headrace.types import EngineInfo, EngineStats


class Encoding(Protocol):
    """A tokenized text."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def offsets(self) -> Sequence[tuple[int, int]]:
        """Per token, where it starts and ends in the text, in characters."""
        ...


class Frontend(Protocol):
    """The part of `text.frontend.Frontend` that the routes call."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def stats(self) -> EngineStats: ...

    @property
    def is_healthy(self) -> bool: ...

    def stream(self, request: GenerationRequest) -> AsyncGenerator[TextDelta, None]:
        """Deltas of all sequences, interleaved; closing it aborts. Raises errors.RequestError."""
        ...

    async def generate(self, request: GenerationRequest) -> list[Generation]: ...

    async def tokenize(self, text: str, add_special_tokens: bool = True) -> Encoding: ...

    @property
    def chat_format(self) -> ChatFormat:
        """How the model writes tool calls and reasoning."""
        ...

    async def render_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[Any] | None = None,
        **variables: Any,
    ) -> str: ...


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """How the model is called towards clients."""

    model_id: str
    sha: str | None = None
    """Commit on the hub."""
    pipeline_tag: str | None = None
    """As the hub says; None for local models."""


async def _numbered_from(
    first_index: int, deltas: AsyncGenerator[TextDelta, None]
) -> AsyncGenerator[TextDelta, None]:
    async with aclosing(deltas):
        async for delta in deltas:
            yield msgspec.structs.replace(delta, index=first_index + delta.index)


class Service:
    """Generates for the handlers, and records every finished sequence."""

    def __init__(
        self,
        frontend: Frontend,
        settings: Settings,
        model: ServedModel,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self.frontend = frontend
        self.settings = settings
        self.model = model
        self.metrics = metrics
        self.tracing = tracing
        info = frontend.info
        self.compute_type = settings.compute_type or describe_device(info.device)
        room = info.max_total_tokens - 1
        self.max_input_tokens = min(settings.prompt_limit or room, room)
        self.limits = Limits(
            max_best_of=settings.max_best_of,
            max_stop_sequences=settings.max_stop_sequences,
            max_top_n_tokens=settings.max_top_n_tokens,
            max_input_tokens=self.max_input_tokens,
            allows_grammar=not settings.disable_grammar_support,
        )

    async def stream(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncGenerator[TextDelta, None]:
        """Deltas of all requests' sequences, interleaved and numbered through."""
        prompt_lengths: dict[int, int] = {}
        async with aclosing(self._deltas(requests)) as deltas:
            async for delta in deltas:
                if delta.prompt is not None:
                    prompt_lengths[delta.index] = delta.prompt.num_tokens
                if delta.finish is not None:
                    request = requests[delta.index // requests[0].n]
                    self._record(request, prompt_lengths[delta.index], delta.finish)
                yield delta

    def _deltas(self, requests: Sequence[GenerationRequest]) -> AsyncGenerator[TextDelta, None]:
        first, *others = requests
        if not others:
            return self.frontend.stream(first)
        return interleave(
            [
                _numbered_from(number * first.n, self.frontend.stream(request))
                for number, request in enumerate(requests)
            ]
        )

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """All requests' sequences, numbered through. Cancelling it, or a failure, ends them all."""
        tasks = [asyncio.ensure_future(self.frontend.generate(request)) for request in requests]
        try:
            groups = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        generations: list[Generation] = []
        for request, group in zip(requests, groups, strict=True):
            for generation in group:
                self._record(request, generation.prompt.num_tokens, generation.finish)
                generations.append(replace(generation, index=len(generations)))
        return generations

    def _record(self, request: GenerationRequest, num_prompt_tokens: int, finish: Finish) -> None:
        room = self.frontend.info.max_total_tokens - num_prompt_tokens
        self.metrics.record_finish(
            finish.timings,
            validation_time=finish.validation_time,
            num_prompt_tokens=num_prompt_tokens,
            num_generated_tokens=finish.num_tokens,
            max_new_tokens=min(request.max_new_tokens or room, room),
        )
        if self.tracing is not None:
            self.tracing.record_finish(
                finish.timings,
                validation_time=finish.validation_time,
                num_prompt_tokens=num_prompt_tokens,
                num_generated_tokens=finish.num_tokens,
                seed=finish.seed,
            )
