"""A front end that says what a test wants, and notes what it was asked."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import HeadraceError
from headrace.text.chat_format import ChatFormat
from headrace.text.generation import (
    Finish,
    Generation,
    GenerationRequest,
    PromptInfo,
    TextDelta,
    TokenText,
)
from headrace.types import EngineInfo, EngineStats, FinishReason, Timings

INFO = EngineInfo(
    max_total_tokens=2048,
    max_batch_prefill_tokens=512,
    max_num_seqs=256,
    num_blocks=100,
    block_size=16,
    vocab_size=1000,
    device="cpu",
    dtype="float32",
    kernels="none",
)
TIMINGS = Timings(queue_time=0.25, prefill_time=0.5, decode_time=1.0, num_cached_tokens=1,
                  num_draft_tokens=8, num_accepted_tokens=5, num_forced_tokens=1,
                  num_draft_steps=3)  # fmt: skip


@dataclass(frozen=True)
class FakeEncoding:
    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]


@dataclass
class FakeFrontend:
    """Generates `words`, one token each; word i has id 10 + i and log-probability -(i + 1) / 4."""

    words: Sequence[str] = ("Hello", " big", " world")
    special: str | None = None
    """Text of a special token that ends the reply."""
    reason: FinishReason = FinishReason.EOS_TOKEN
    stop: str | None = None
    is_healthy: bool = True
    error: HeadraceError | None = None
    fails_after: int = 0
    """Deltas before `error` is raised."""
    hangs_after: int | None = None
    """Deltas after which nothing more comes."""
    pause: float = 0.0
    """Seconds before each delta."""
    requests: list[GenerationRequest] = field(default_factory=list)
    rendered: list[list[dict[str, Any]]] = field(default_factory=list)
    tools: list[list[Any] | None] = field(default_factory=list)
    variables: list[dict[str, Any]] = field(default_factory=list)
    chat_format: ChatFormat = field(default_factory=ChatFormat)
    num_closed_early: int = 0
    num_running: int = 0

    info = INFO
    stats = EngineStats(num_running=2, num_waiting=5, num_free_blocks=75,
                        prefix_cache_queries=10, prefix_cache_hits=4)  # fmt: skip

    def token(self, i: int, request: GenerationRequest) -> TokenText:
        count = request.num_top_logprobs
        top = tuple(TokenText(20 + j, f"t{j}", -0.5 - j) for j in range(count or 0))
        logprob = None if count is None else -(i + 1) / 4
        return TokenText(10 + i, self.words[i], logprob, False, top)

    def prompt_info(self, request: GenerationRequest) -> PromptInfo:
        if not request.prompt_logprobs:
            return PromptInfo(num_tokens=2, num_cached_tokens=1)
        top = tuple(
            TokenText(20 + j, f"t{j}", -0.5 - j) for j in range(request.num_top_logprobs or 0)
        )
        scored = TokenText(2, " it", -1.5, False, top)
        return PromptInfo(2, 1, (TokenText(1, "say", None), scored))

    def finish(self, index: int, request: GenerationRequest) -> Finish:
        return Finish(
            reason=self.reason,
            num_tokens=len(self.words),
            text="".join(self.words),
            seed=None if request.temperature == 0 else (request.seed or 7) + index,
            timings=TIMINGS,
            validation_time=0.125,
            stop=self.stop,
        )

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[TextDelta, None]:
        self.requests.append(request)
        self.num_running += 1
        is_complete = False
        try:
            for position, index in self.schedule(request):
                number = position * request.n + index
                if self.error is not None and number == self.fails_after:
                    raise self.error
                if number == self.hangs_after:
                    await asyncio.Event().wait()
                if self.pause:
                    await asyncio.sleep(self.pause)
                yield self.delta(position, index, request)
            is_complete = True
        finally:
            self.num_running -= 1
            self.num_closed_early += not is_complete

    def schedule(self, request: GenerationRequest) -> list[tuple[int, int]]:
        return [(position, i) for position in range(len(self.words)) for i in range(request.n)]

    def delta(self, position: int, index: int, request: GenerationRequest) -> TextDelta:
        is_last = position == len(self.words) - 1
        tokens = (self.token(position, request),)
        if is_last and self.special is not None:
            tokens += (TokenText(2, self.special, None, True),)
        return TextDelta(
            index=index,
            text=self.words[position],
            tokens=tokens,
            prompt=self.prompt_info(request) if position == 0 else None,
            finish=self.finish(index, request) if is_last else None,
        )

    async def generate(self, request: GenerationRequest) -> list[Generation]:
        async for _ in self.stream(request):
            pass
        tokens = [self.token(i, request) for i in range(len(self.words))]
        return [
            Generation(
                index=index,
                prompt=self.prompt_info(request),
                text="".join(self.words),
                tokens=tokens,
                finish=self.finish(index, request),
            )
            for index in range(request.n)
        ]

    async def tokenize(self, text: str, add_special_tokens: bool = True) -> FakeEncoding:
        """One token per character, the character's code as id; a special one of id 0 in front."""
        special = [(0, 0)] if add_special_tokens else []
        offsets = special + [(i, i + 1) for i in range(len(text))]
        return FakeEncoding([ord(text[a]) if b else 0 for a, b in offsets], offsets)

    async def render_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[Any] | None = None,
        **variables: Any,
    ) -> str:
        self.rendered.append(messages)
        self.tools.append(tools)
        self.variables.append(variables)
        return "".join(f"<{m['role']}>{m['content']}" for m in messages)
