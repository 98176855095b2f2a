"""Streams over replicas that die, with Serve's handle replaced: what is sent again."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError

from headrace.errors import EngineDeadError
from headrace.observability.steps import count_step
from headrace.serve.cluster.client import RayEngineClient
from headrace.serve.cluster.deployment import ReplicaReport
from headrace.types import Add, EngineStats, FinishReason, StepCounts, TokenEvent
from tests.engine.oracle import expected, make_add

VOCAB_SIZE = 1000


class Response:
    """One attempt: gives `life` tokens, then dies, unless it is done before."""

    def __init__(self, add: Add, life: int) -> None:
        tokens, finish_reason = expected(add, VOCAB_SIZE)
        self._tokens = tokens[len(add.output_ids) :]
        self._finish_reason = finish_reason
        self._life = life
        self.is_cancelled = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._events()

    async def _events(self) -> AsyncIterator[bytes]:
        for count, token in enumerate(self._tokens, start=1):
            if count > self._life:
                raise RayActorError
            is_last = count == len(self._tokens)
            reason: FinishReason | None = self._finish_reason if is_last else None
            yield msgspec.msgpack.encode(
                TokenEvent(request_id=99, token_ids=[token], finish_reason=reason)
            )

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """Of a deployment whose replicas live for as many tokens as `lives` says, one after another."""

    def __init__(self, lives: list[int]) -> None:
        self._lives = lives
        self.responses: list[Response] = []
        self.requests: list[Add] = []

    def options(self, **_: Any) -> "Handle":
        return self

    def remote(self, request: bytes) -> Response:
        add = msgspec.msgpack.decode(request, type=Add)
        life = self._lives.pop(0) if self._lives else 10**6
        self.requests.append(add)
        self.responses.append(Response(add, life))
        return self.responses[-1]


@given(st.lists(st.integers(0, 8), max_size=6), st.integers(1, 30))
async def test_a_stream_is_the_same_over_any_number_of_replicas(
    lives: list[int], max_tokens: int
) -> None:
    add = make_add(5, [1, 2, 3], max_tokens)
    handle = Handle(list(lives))
    client = RayEngineClient(handle)  # type: ignore[arg-type]
    tokens: list[int] = []
    try:
        async for event in client.generate(add):
            assert event.request_id == 5
            tokens += event.token_ids
    except EngineDeadError:
        # Three deaths without a token between them; the first may have had some before.
        assert [0, 0] in [lives[i : i + 2] for i in range(1, len(lives))]
    else:
        assert event.finish_reason is not None
        assert tokens == expected(add, VOCAB_SIZE)[0]
    done = 0
    for request, life in zip(handle.requests, [*lives, 0], strict=False):
        assert request.output_ids == tokens[:done]
        done += life
    assert all(response.is_cancelled for response in handle.responses)


async def test_an_abandoned_stream_is_cancelled() -> None:
    handle = Handle([])
    stream = RayEngineClient(handle).generate(make_add(1, [1], 50))  # type: ignore[arg-type]
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert [response.is_cancelled for response in handle.responses] == [True]


def test_steps_of_replicas_that_come_and_go_add_up() -> None:
    client = RayEngineClient(Handle([]))  # type: ignore[arg-type]
    decode, prefill = EngineStats(step_duration=0.5), EngineStats(num_prefill_tokens=4)
    first, second, third = StepCounts(), StepCounts(), StepCounts()

    def poll(**steps: StepCounts) -> None:
        reports = [ReplicaReport(name, decode, counts.copy()) for name, counts in steps.items()]
        client._count_steps(reports)

    count_step(first, decode)
    poll(a=first)
    count_step(first, prefill)
    count_step(second, decode)
    poll(a=first, b=second)
    poll(a=first, b=second)
    count_step(third, decode)
    poll(b=second, c=third)
    total = first + second + third
    assert {k: v for k, v in client.steps.items() if v} == dict(total)
    assert total["tgi_batch_inference_count", "decode", -1] == 3
