"""The fake keeps the protocol's promises, so that tests above it mean something."""

from headrace.text.fake import FakeClient, repeat
from headrace.types import Add, EngineClient, FinishReason, SamplingParams


def add(**params: object) -> Add:
    fields = {"max_tokens": 5} | params
    return Add(request_id=1, prompt_ids=[10, 20, 30], params=SamplingParams(**fields))  # type: ignore[arg-type]


async def test_echoes_until_the_limit() -> None:
    client: EngineClient = FakeClient(tokens_per_event=2)
    events = [event async for event in client.generate(add())]
    assert [event.token_ids for event in events] == [[10, 20], [30, 10], [20]]
    assert [event.finish_reason for event in events] == [None, None, FinishReason.LENGTH]
    assert events[-1].timings is not None


async def test_stop_token_ends_after_the_minimum() -> None:
    client = FakeClient(repeat([7, 2]))
    params = {"stop_token_ids": frozenset({2}), "min_tokens": 3}
    events = [event async for event in client.generate(add(**params))]
    assert [event.token_ids[0] for event in events] == [7, 2, 7, 2]
    assert events[-1].finish_reason is FinishReason.EOS_TOKEN


async def test_logprobs_are_told_when_asked() -> None:
    client = FakeClient()
    params = {"num_top_logprobs": 2, "prompt_logprobs": True, "max_tokens": 1}
    (event,) = [event async for event in client.generate(add(**params))]
    assert event.logprobs == [-0.01]
    assert event.top_logprobs == [[(10, -0.01), (11, -0.011)]]
    assert event.prompt_logprobs == [None, -0.02, -0.03]


async def test_closing_early_is_an_abort() -> None:
    client = FakeClient()
    events = client.generate(add())
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    assert client.aborted == [1]


async def test_error_ends_the_stream() -> None:
    client = FakeClient(error_after=1)
    events = [event async for event in client.generate(add())]
    assert [event.error for event in events] == [None, "fake error"]
    assert client.aborted == []
