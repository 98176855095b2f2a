"""The whole text side over a fake engine; texts are checked against decoding all ids at once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import GenerationError, OverloadedError, TemplateError, ValidationError
from headrace.text.chat import ChatTemplate, load_chat_template
from headrace.text.fake import FAKE_INFO, FakeClient, repeat
from headrace.text.frontend import Frontend
from headrace.text.generation import GenerationRequest, TextDelta
from headrace.text.tokenizer import Tokenizer
from headrace.types import Add, FinishReason, Grammar, TokenEvent

EOS = 2
TEXT = "Grüße, 日本 🎉! The end. "


@pytest.fixture(scope="module")
def template(embedded_checkpoint: Checkpoint) -> Iterator[ChatTemplate]:
    template = load_chat_template(embedded_checkpoint, "<|im_start|>", "<|im_end|>")
    assert template is not None
    yield template
    template.close()


@pytest.fixture
def make(embedded_tokenizer: Tokenizer) -> Iterator[Any]:
    made: list[Frontend] = []

    def frontend(client: FakeClient | None = None, **options: Any) -> Frontend:
        made.append(Frontend(client or FakeClient(), embedded_tokenizer, None, **options))
        return made[-1]

    yield frontend
    for one in made:
        one.close()


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**({"prompt": TEXT, "max_new_tokens": 12} | fields))


async def collect(frontend: Frontend, asked: GenerationRequest) -> list[TextDelta]:
    async with aclosing(frontend.stream(asked)) as deltas:
        return [delta async for delta in deltas]


async def test_text_is_the_decoded_ids(make: Any, embedded_tokenizer: Tokenizer) -> None:
    frontend = make()
    ids = embedded_tokenizer.encode(TEXT).ids
    expected = ids * 3
    deltas = await collect(frontend, request(max_new_tokens=len(expected)))
    finish = deltas[-1].finish
    assert finish is not None and finish.reason is FinishReason.LENGTH
    assert [token.id for delta in deltas for token in delta.tokens] == expected
    assert finish.text == embedded_tokenizer._backend.decode(expected)
    assert "".join(delta.text for delta in deltas) == finish.text
    assert "".join(token.text for delta in deltas for token in delta.tokens) == finish.text
    assert finish.num_tokens == len(expected)
    assert deltas[0].prompt is not None and deltas[0].prompt.num_tokens == len(ids)
    assert all(delta.prompt is None for delta in deltas[1:])
    assert all(delta.finish is None for delta in deltas[:-1])


async def test_generate_is_the_fold_of_stream(make: Any) -> None:
    frontend = make(FakeClient(tokens_per_event=3))
    asked = request(n=3, seed=5, temperature=0.7)
    generations = await frontend.generate(asked)
    assert [generation.index for generation in generations] == [0, 1, 2]
    assert [generation.finish.seed for generation in generations] == [5, 6, 7]
    deltas = await collect(frontend, asked)
    for generation in generations:
        mine = [delta for delta in deltas if delta.index == generation.index]
        assert generation.text == "".join(delta.text for delta in mine)
        assert generation.tokens == [token for delta in mine for token in delta.tokens]


async def test_end_of_sequence_is_a_counted_special_token_without_text(make: Any) -> None:
    client = FakeClient(repeat([28, 29, EOS]))
    (generation,) = await make(client).generate(request())
    assert generation.finish.reason is FinishReason.EOS_TOKEN
    assert generation.finish.num_tokens == 3
    assert generation.tokens[-1].special and generation.tokens[-1].text == "<|im_end|>"
    assert "<|im_end|>" not in generation.text
    (shown,) = await make(client).generate(request(skip_special_tokens=False))
    assert shown.text == generation.text + "<|im_end|>"
    (ignored,) = await make(client).generate(request(ignore_eos=True))
    assert ignored.finish.reason is FinishReason.LENGTH
    assert client.adds[-1].params.stop_token_ids == frozenset()


async def test_own_stop_token_is_hidden_and_named(make: Any) -> None:
    client = FakeClient(repeat([28, 29, 30]))
    (generation,) = await make(client).generate(request(stop_token_ids=(30,)))
    (kept,) = await make(client).generate(request(stop_token_ids=(30,), keep_stop_text=True))
    assert generation.finish.stop == kept.finish.stop == 30
    assert kept.text == generation.text + make().tokenizer.text_of(30)


@pytest.mark.parametrize("tokens_per_event", [1, 4])
async def test_stop_string_ends_and_aborts(make: Any, tokens_per_event: int) -> None:
    client = FakeClient(tokens_per_event=tokens_per_event)
    asked = request(max_new_tokens=100, stop=("never", "! The e"))
    deltas = await collect(make(client), asked)
    finish = deltas[-1].finish
    assert finish is not None and finish.reason is FinishReason.STOP_SEQUENCE
    assert finish.stop == "! The e"
    assert finish.text == "".join(delta.text for delta in deltas) == "Grüße, 日本 🎉"
    assert finish.num_tokens == sum(len(delta.tokens) for delta in deltas)
    assert client.aborted == [client.adds[0].request_id]
    kept = await make(client).generate(
        request(max_new_tokens=100, stop=("! The e",), keep_stop_text=True)
    )
    assert kept[0].text == "Grüße, 日本 🎉! The e"


@settings(max_examples=60)
@given(
    ids=st.lists(st.integers(0, 49151), min_size=1, max_size=12),
    stops=st.lists(st.text("ab e\n", min_size=1, max_size=3), max_size=3).map(tuple),
    tokens_per_event=st.integers(1, 5),
)
async def test_deltas_join_to_the_text(
    embedded_tokenizer: Tokenizer, ids: list[int], stops: tuple[str, ...], tokens_per_event: int
) -> None:
    client = FakeClient(repeat(ids), tokens_per_event=tokens_per_event)
    frontend = Frontend(client, embedded_tokenizer, None)
    deltas = await collect(frontend, request(stop=stops, ignore_eos=True))
    frontend.close()
    finish = deltas[-1].finish
    assert finish is not None
    assert "".join(delta.text for delta in deltas) == finish.text
    assert not any(stop in finish.text for stop in stops)
    taken = [token.id for delta in deltas for token in delta.tokens]
    assert embedded_tokenizer._backend.decode(taken).startswith(finish.text)


async def test_sampling_fields_reach_the_engine(make: Any) -> None:
    client = FakeClient()
    fields = {
        "temperature": 0.5, "top_k": 3, "top_p": 0.9, "typical_p": 0.8, "min_p": 0.1,
        "repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.3,
        "watermark": True,
        "logit_bias": {5: 1.0}, "num_top_logprobs": 2, "prompt_logprobs": True,
    }  # fmt: skip
    await make(client).generate(request(**fields, min_new_tokens=2, cache_salt="s", priority=3))
    (add,) = client.adds
    for name, value in fields.items():
        assert getattr(add.params, name) == value, name
    assert (add.params.min_tokens, add.cache_salt, add.priority) == (2, "s", 3)
    assert add.params.stop_token_ids == {EOS}


async def test_log_probabilities_come_with_their_tokens(make: Any) -> None:
    frontend = make()
    (generation,) = await frontend.generate(
        request(prompt="Hello world", num_top_logprobs=2, prompt_logprobs=True)
    )
    assert [token.text for token in generation.prompt.tokens] == ["Hello", " world"]
    assert generation.prompt.tokens[0].logprob is None
    for token in generation.tokens:
        assert token.logprob == -token.id / 1000
        assert [other.id for other in token.top] == [token.id, token.id + 1]


async def test_seeds(make: Any) -> None:
    client = FakeClient()
    frontend = make(client)
    await frontend.generate(request(n=2))
    first, second = (add.params.seed for add in client.adds)
    assert (second - first) % 2**64 == 1
    await frontend.generate(request())
    assert client.adds[-1].params.seed not in {first, second}
    await frontend.generate(request(seed=2**64 - 1, n=2))
    assert {add.params.seed for add in client.adds[-2:]} == {2**64 - 1, 0}
    (greedy,) = await frontend.generate(request(temperature=0.0))
    assert greedy.finish.seed is None


async def test_truncate_keeps_the_end(make: Any, embedded_tokenizer: Tokenizer) -> None:
    client = FakeClient()
    await make(client).generate(request(truncate=3))
    assert client.adds[0].prompt_ids == embedded_tokenizer.encode(TEXT).ids[-3:]


async def test_without_a_limit_the_context_is_filled(make: Any) -> None:
    client = FakeClient(info=msgspec.structs.replace(FAKE_INFO, max_total_tokens=50))
    (generation,) = await make(client).generate(request(prompt=[7] * 20, max_new_tokens=None))
    assert generation.finish.num_tokens == 30


async def test_asking_for_very_much_gets_what_fits(make: Any) -> None:
    """As in TGI, which checks no more than 1024 of them."""
    client = FakeClient(info=msgspec.structs.replace(FAKE_INFO, max_total_tokens=1050))
    frontend = make(client)
    (generation,) = await frontend.generate(request(prompt=[7] * 20, max_new_tokens=9999))
    assert generation.finish.num_tokens == 1030
    with pytest.raises(ValidationError, match="Given: 27 .* 9999"):
        await frontend.generate(request(prompt=[7] * 27, max_new_tokens=9999))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": [7] * 20, "max_new_tokens": 31},
            "`inputs` tokens + `max_new_tokens` must be <= 50. "
            "Given: 20 `inputs` tokens and 31 `max_new_tokens`",
        ),
        (
            {"prompt": [7] * 2000, "max_new_tokens": 2000},
            "`inputs` tokens + `max_new_tokens` must be <= 50. "
            "Given: 2000 `inputs` tokens and 2000 `max_new_tokens`",
        ),
        (
            {"prompt": [7] * 41, "max_new_tokens": 1},
            "`inputs` must have less than 40 tokens. Given: 41",
        ),
        (
            {"prompt": [7] * 90, "max_new_tokens": None},
            "`inputs` must have less than 40 tokens. Given: 90",
        ),
        ({"prompt": ""}, "`inputs` cannot be empty"),
        ({"prompt": []}, "`inputs` cannot be empty"),
        ({"prompt": [49152]}, "`inputs` must have token ids >= 0 and < 49152. Given: 49152"),
        ({"logit_bias": {-1: 1.0}}, "`logit_bias` must have token ids >= 0 and < 49152. Given: -1"),
        ({"stop": ("",)}, "`stop` must not contain empty strings"),
        (
            {"grammar": Grammar(kind="json", source="{}"), "min_new_tokens": 1},
            "`min_new_tokens` must not be set when `grammar` is",
        ),
    ],
)
async def test_refusals(make: Any, fields: dict[str, Any], message: str) -> None:
    client = FakeClient(info=msgspec.structs.replace(FAKE_INFO, max_total_tokens=50))
    frontend = make(client, max_input_tokens=40, max_concurrent_requests=1)
    for _ in range(2):  # A refusal gives its slot back.
        with pytest.raises(ValidationError) as caught:
            await frontend.generate(request(**fields))
        assert str(caught.value) == message
    assert client.adds == []


async def test_the_engines_state_is_passed_on(make: Any) -> None:
    client = FakeClient()
    frontend = make(client)
    assert (frontend.info, frontend.stats) == (client.info, client.stats)
    client.is_healthy = False
    assert not frontend.is_healthy


async def test_a_grammar_outranks_ignore_eos(make: Any) -> None:
    client = FakeClient()
    grammar = Grammar(kind="regex", source="a")
    await collect(make(client), request(ignore_eos=True, grammar=grammar))
    assert client.adds[0].params.grammar == grammar
    assert EOS in client.adds[0].params.stop_token_ids


async def test_the_engine_can_find_a_request_at_fault(make: Any) -> None:
    class Strict(FakeClient):
        async def generate(self, add: Add) -> AsyncIterator[TokenEvent]:
            error = "grammar is not valid: no"
            yield TokenEvent(request_id=0, token_ids=[], error=error, is_invalid=True)

    with pytest.raises(ValidationError, match="^grammar is not valid: no$"):
        await collect(make(Strict()), request())


async def test_errors_of_the_engine(make: Any) -> None:
    frontend = make(FakeClient(error_after=2), max_concurrent_requests=2)
    for _ in range(2):
        with pytest.raises(GenerationError, match="^fake error$"):
            await frontend.generate(request(n=2))


async def test_slots_are_counted_per_sequence_without_waiting(make: Any) -> None:
    client = FakeClient()
    frontend = make(client, max_concurrent_requests=3)
    first = frontend.stream(request(n=2))
    await anext(first)
    with pytest.raises(OverloadedError, match="Model is overloaded"):
        await frontend.generate(request(n=2))
    await frontend.generate(request())
    await first.aclose()
    assert len(client.aborted) == 2
    await frontend.generate(request(n=3))


async def test_a_cancelled_reader_aborts_at_once(make: Any) -> None:
    client = FakeClient(seconds_per_event=0.01)
    frontend = make(client, max_concurrent_requests=2)
    task = asyncio.create_task(frontend.generate(request(n=2, max_new_tokens=1000)))
    while len(client.adds) < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(client.aborted) == [add.request_id for add in client.adds]
    await frontend.generate(request(n=2))


async def test_chat(embedded_tokenizer: Tokenizer, template: ChatTemplate) -> None:
    frontend = Frontend(FakeClient(), embedded_tokenizer, template)
    prompt = await frontend.render_chat([{"role": "user", "content": "Hi"}])
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = (await frontend.tokenize(prompt, add_special_tokens=False)).ids
    assert ids[0] == 1 and ids.count(1) == 3


class BlockedTemplate:
    """Stands in for a template that hangs."""

    sources: dict[str, str] = {}

    def __init__(self) -> None:
        self.released = threading.Event()

    def render(self, messages: Any, tools: Any) -> str:
        self.released.wait()
        return "rendered"

    def close(self) -> None:
        pass


async def test_a_hanging_template_keeps_nobody_else_waiting(embedded_tokenizer: Tokenizer) -> None:
    template = BlockedTemplate()
    frontend = Frontend(FakeClient(), embedded_tokenizer, template, validation_workers=1)  # type: ignore[arg-type]
    chats = [asyncio.create_task(frontend.render_chat([])) for _ in range(3)]
    await frontend.generate(request())
    assert not any(chat.done() for chat in chats)
    template.released.set()
    assert await asyncio.gather(*chats) == ["rendered"] * 3
    frontend.close()


async def test_without_a_template_chat_is_refused(make: Any) -> None:
    with pytest.raises(TemplateError, match="^template not found"):
        await make().render_chat([])


async def test_nothing_new_is_generated_when_only_the_prompt_counts(make: Any) -> None:
    client = FakeClient()
    asked = request(prompt="Hello world", max_new_tokens=0, num_top_logprobs=2,
                    prompt_logprobs=True)  # fmt: skip
    (delta,) = await collect(make(client), asked)
    assert client.adds[0].params.max_tokens == 1
    assert (delta.text, delta.tokens) == ("", ())
    assert delta.finish is not None
    assert (delta.finish.reason, delta.finish.num_tokens) == (FinishReason.LENGTH, 0)
    assert delta.prompt is not None
    assert [token.logprob for token in delta.prompt.tokens] == [
        None, *(-token.id / 1000 for token in delta.prompt.tokens[1:]),
    ]  # fmt: skip
    assert [token.top[0].id for token in delta.prompt.tokens[1:]] == [
        token.id for token in delta.prompt.tokens[1:]
    ]
