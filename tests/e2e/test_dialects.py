"""The dialects and fields beyond chat and text: official clients against a real server process."""

from typing import Any

import httpx
import pytest
from anthropic import Anthropic, BadRequestError
from openai import OpenAI

from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

QUESTION: Any = [{"role": "user", "content": "Where is the Eiffel Tower?"}]


@pytest.fixture
def openai(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)


@pytest.fixture
def anthropic(server: ServerProcess) -> Anthropic:
    return Anthropic(base_url=server.url, api_key="-", max_retries=0)


def test_best_of_is_the_likelier_of_two(openai: OpenAI) -> None:
    options: Any = {"model": "tgi", "prompt": "Once upon a time", "temperature": 1.5, "seed": 3,
                    "max_tokens": 8, "logprobs": 0}  # fmt: skip
    both = openai.completions.create(**options, n=2).choices
    best = openai.completions.create(**options, best_of=2).choices

    def mean_logprob(choice: Any) -> float:
        logprobs: list[float] = choice.logprobs.token_logprobs
        return sum(logprobs) / len(logprobs)

    assert both[0].text != both[1].text
    assert [choice.text for choice in best] == [max(both, key=mean_logprob).text]


def test_timings_and_cached_tokens(openai: OpenAI) -> None:
    prompt = "A story of rivers and mills. " * 20
    options: Any = {"model": "tgi", "prompt": prompt, "max_tokens": 4, "temperature": 0}
    openai.completions.create(**options)
    answer = openai.completions.create(**options)
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    cached = answer.usage.prompt_tokens_details.cached_tokens or 0
    assert 0 < cached < answer.usage.prompt_tokens
    timings: Any = answer.to_dict()["timings"]
    assert timings["cache_n"] == cached
    assert timings["prompt_n"] == answer.usage.prompt_tokens - cached
    assert timings["predicted_n"] == 4
    assert timings["prompt_ms"] > 0 and timings["predicted_ms"] > 0


def test_cached_tokens_of_an_answer_that_a_stop_string_ends(openai: OpenAI) -> None:
    prompt = "One two three four five six. " * 20
    options: Any = {"model": "tgi", "prompt": prompt, "max_tokens": 24, "temperature": 0}
    text = openai.completions.create(**options).choices[0].text
    answer = openai.completions.create(**options, stop=text[2:4])
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) > 0


def test_responses(openai: OpenAI) -> None:
    options: Any = {"model": "tgi", "input": QUESTION[0]["content"], "temperature": 0,
                    "max_output_tokens": 200}  # fmt: skip
    whole = openai.responses.create(**options)
    assert "Paris" in whole.output_text
    with openai.responses.stream(**options) as stream:
        final = stream.get_final_response()
    assert (final.output_text, final.status) == (whole.output_text, whole.status)
    chat = openai.chat.completions.create(
        model="tgi", messages=QUESTION, temperature=0, max_tokens=200
    )
    assert chat.choices[0].message.content == whole.output_text


def test_anthropic(anthropic: Anthropic) -> None:
    # The client has no temperature for models of today; the API does.
    options: Any = {"model": "tgi", "max_tokens": 24, "messages": QUESTION,
                    "extra_body": {"temperature": 0}}  # fmt: skip
    whole = anthropic.messages.create(**options)
    assert "Paris" in whole.content[0].text
    with anthropic.messages.stream(**options) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        final = stream.get_final_message()
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    count = anthropic.messages.count_tokens(model="tgi", messages=QUESTION).input_tokens
    usage = whole.usage
    assert count == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    with pytest.raises(BadRequestError, match="top_p"):
        anthropic.messages.create(**options | {"extra_body": {"top_p": 1.5}})


def test_platforms(server: ServerProcess) -> None:
    chat = {"messages": QUESTION, "temperature": 0, "max_tokens": 16}
    direct = httpx.post(f"{server.url}/v1/chat/completions", json=chat, timeout=60).json()
    text = direct["choices"][0]["message"]["content"]
    wrapped = httpx.post(f"{server.url}/invocations", json=chat, timeout=60).json()
    assert wrapped["choices"] == direct["choices"]
    instances = {"instances": [chat, {"inputs": "1, 2,", "parameters": {"max_new_tokens": 3}}]}
    predictions = httpx.post(f"{server.url}/vertex", json=instances, timeout=60).json()
    assert predictions["predictions"][0] == text
    assert len(predictions["predictions"]) == 2
