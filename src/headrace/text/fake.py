"""A stand-in for the engine: an `EngineClient` that continues every prompt by a fixed rule.

For tests of everything above the engine, without torch and without a second process.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import cycle

from headrace.types import Add, EngineInfo, EngineStats, FinishReason, Timings, TokenEvent

Continuation = Callable[[Add], Iterable[int]]
"""The ids that follow a prompt; endless, or at least `max_tokens` long."""

FAKE_INFO = EngineInfo(
    max_total_tokens=2048,
    max_batch_prefill_tokens=2048,
    max_num_seqs=64,
    num_blocks=1024,
    block_size=16,
    vocab_size=49152,
    device="fake",
    dtype="float32",
    kernels="none",
)

TIMINGS = Timings(queue_time=0.0, prefill_time=0.0, decode_time=0.0, num_cached_tokens=0)


def repeat(token_ids: Iterable[int]) -> Continuation:
    """Always the same ids, again and again."""
    ids = list(token_ids)
    return lambda add: cycle(ids)


def echo(add: Add) -> Iterable[int]:
    """The prompt again and again: differs between prompts, and is known beforehand."""
    return cycle(add.prompt_ids)


class FakeClient:
    """Streams a continuation until a stop token or `max_tokens`, as an engine would.

    `adds` and `aborted` (request ids) record what was asked of it. With `error_after`, every
    request fails after so many events.
    """

    def __init__(
        self,
        continuation: Continuation = echo,
        *,
        info: EngineInfo = FAKE_INFO,
        tokens_per_event: int = 1,
        seconds_per_event: float = 0.0,
        error_after: int | None = None,
    ) -> None:
        self.info = info
        self.stats = EngineStats(num_free_blocks=info.num_blocks)
        self.is_healthy = True
        self.adds: list[Add] = []
        self.aborted: list[int] = []
        self._continuation = continuation
        self._tokens_per_event = tokens_per_event
        self._seconds_per_event = seconds_per_event
        self._error_after = error_after

    async def generate(self, add: Add) -> AsyncIterator[TokenEvent]:
        """Yield events until the request is finished; closing early counts as an abort."""
        self.adds.append(add)
        is_finished = False
        try:
            for index, event in enumerate(self._events(add)):
                await asyncio.sleep(self._seconds_per_event)
                if index == self._error_after:
                    event = TokenEvent(request_id=add.request_id, token_ids=[], error="fake error")
                is_finished = event.finish_reason is not None or event.error is not None
                yield event
                if is_finished:
                    return
        finally:
            if not is_finished:
                self.aborted.append(add.request_id)

    def _events(self, add: Add) -> Iterable[TokenEvent]:
        ids: list[int] = []
        for number, token_id in enumerate(self._continuation(add), 1):
            ids.append(token_id)
            reason = _finish_reason(add, number, token_id)
            if reason is not None or len(ids) == self._tokens_per_event:
                yield _event(add, ids, number == len(ids), reason)
                ids = []
            if reason is not None:
                return


def _finish_reason(add: Add, number: int, token_id: int) -> FinishReason | None:
    if token_id in add.params.stop_token_ids and number > add.params.min_tokens:
        return FinishReason.EOS_TOKEN
    return FinishReason.LENGTH if number == add.params.max_tokens else None


def _event(add: Add, ids: list[int], is_first: bool, reason: FinishReason | None) -> TokenEvent:
    """The logprob of token id t is -t/1000; the likeliest alternatives are t, t + 1, ..."""
    num_top = add.params.num_top_logprobs
    prompt = add.prompt_ids
    return TokenEvent(
        request_id=add.request_id,
        token_ids=ids,
        finish_reason=reason,
        logprobs=None if num_top is None else [_logprob(token_id) for token_id in ids],
        top_logprobs=[_top_logprobs(t, num_top) for t in ids] if num_top else None,
        prompt_logprobs=[None, *map(_logprob, prompt[1:])]
        if is_first and add.params.prompt_logprobs
        else None,
        prompt_top_logprobs=[[], *(_top_logprobs(t, num_top or 0) for t in prompt[1:])]
        if is_first and add.params.prompt_logprobs
        else None,
        timings=None if reason is None and not is_first else TIMINGS,
    )


def _top_logprobs(token_id: int, count: int) -> list[tuple[int, float]]:
    return [(token_id + i, _logprob(token_id + i)) for i in range(count)]


def _logprob(token_id: int) -> float:
    return -token_id / 1000
