"""The official clients against a real server process and the embedded model."""

import pytest
from huggingface_hub import InferenceClient
from openai import OpenAI, UnprocessableEntityError

from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

QUESTION = [{"role": "user", "content": "Where is the Eiffel Tower?"}]


@pytest.fixture
def openai(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)


@pytest.fixture
def hub(server: ServerProcess) -> InferenceClient:
    return InferenceClient(base_url=server.url)


def test_openai_chat(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(
        model="tgi", messages=QUESTION, temperature=0, max_tokens=24
    )
    choice = answer.choices[0]
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason in {"stop", "length"}
    assert answer.usage is not None and answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openai_chat_stream_equals_the_whole(openai: OpenAI) -> None:
    options = {"model": "tgi", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    whole = openai.chat.completions.create(**options)
    chunks = list(
        openai.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert [r for r in reasons if r] == [whole.choices[0].finish_reason]
    assert chunks[-1].usage is not None and chunks[-1].usage == whole.usage


def test_openai_completion_with_logprobs(openai: OpenAI) -> None:
    answer = openai.completions.create(
        model="tgi", prompt="The capital of France is", temperature=0, max_tokens=5, logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.top_logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    for chosen, top in zip(logprobs.token_logprobs or [], logprobs.top_logprobs, strict=True):
        assert chosen == pytest.approx(max(top.values()), abs=1e-5), "greedy takes the likeliest"


def test_seeded_sampling_repeats(openai: OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = openai.completions.create(
            model="tgi", prompt="Once upon a time", temperature=1.2, seed=seed, max_tokens=16
        )
        return answer.choices[0].text

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_stop_string_is_cut(openai: OpenAI) -> None:
    free = openai.completions.create(
        model="tgi", prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=24
    ).choices[0]
    stop = free.text[6:9]
    cut = openai.completions.create(
        model="tgi", prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=24, stop=stop
    ).choices[0]
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish_reason == "stop"


def test_bad_field_is_named(openai: OpenAI) -> None:
    with pytest.raises(UnprocessableEntityError, match="top_p"):
        openai.chat.completions.create(model="tgi", messages=QUESTION, top_p=1.5)


def test_hub_text_generation(hub: InferenceClient) -> None:
    answer = hub.text_generation(
        "The capital of France is", max_new_tokens=8, details=True, decoder_input_details=True
    )
    assert "Paris" in answer.generated_text
    assert answer.details.generated_tokens == len(answer.details.tokens) == 8
    assert answer.details.finish_reason == "length"
    assert answer.details.prefill[0].logprob is None
    assert all(token.logprob < 0 for token in answer.details.prefill[1:])
    text = "".join(token.text for token in answer.details.tokens if not token.special)
    assert "The capital of France is" + text == answer.generated_text, "the full text, as in TGI"


def test_hub_text_generation_stream(hub: InferenceClient) -> None:
    events = list(
        hub.text_generation(
            "The capital of France is",
            max_new_tokens=8,
            stream=True,
            details=True,
            return_full_text=False,
        )
    )
    whole = hub.text_generation(
        "The capital of France is", max_new_tokens=8, return_full_text=False
    )
    assert len(events) == 8
    assert events[-1].generated_text == whole
    assert "".join(e.token.text for e in events) == whole
    assert events[-1].details.generated_tokens == 8


def test_hub_chat(hub: InferenceClient) -> None:
    answer = hub.chat_completion(QUESTION, max_tokens=24, temperature=0)
    assert "Paris" in answer.choices[0].message.content
    text = ""
    for chunk in hub.chat_completion(QUESTION, max_tokens=24, temperature=0, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == answer.choices[0].message.content
