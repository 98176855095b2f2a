"""Grammars through the official client, a real server and the embedded model."""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest
from openai import OpenAI, UnprocessableEntityError

from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

WORD = {"type": "string", "maxLength": 24}
PERSON = {
    "type": "object",
    "properties": {
        "name": WORD,
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "born": {"type": "string", "format": "date"},
        "hobbies": {"type": "array", "items": WORD, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "leaf": {"enum": ["oak", "ash", None]},
        "node": {
            "type": "object",
            "properties": {"left": {"$ref": "#/$defs/leaf"}, "right": {"$ref": "#/$defs/leaf"}},
            "required": ["left"],
            "additionalProperties": False,
        },
    },
    "anyOf": [{"$ref": "#/$defs/node"}, {"type": "array", "items": {"type": "boolean"},
                                         "minItems": 1, "maxItems": 4}],
}  # fmt: skip
HOSTILE = [
    {"type": "regex", "value": "((a{1000}){1000}){1000}"},
    {"type": "regex", "value": "(" * 5000},
    {"type": "lark", "value": "start: " + "x" * 100},
    {"type": "json", "value": {"properties": {"a": {"uniqueItems": True}}}},
]


@pytest.fixture
def openai(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)


def ask(openai: OpenAI, form: dict[str, Any], **fields: Any) -> Any:
    messages = [{"role": "user", "content": "Tell me about somebody, as JSON."}]
    fields = {"temperature": 1.0, "max_tokens": 300} | fields
    return openai.chat.completions.create(
        model="tgi",
        messages=messages,  # type: ignore[arg-type]
        response_format=form,  # type: ignore[arg-type]
        **fields,
    )


def of_schema(schema: Any) -> dict[str, Any]:
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


@pytest.mark.parametrize("schema", [PERSON, TREE], ids=["person", "tree"])
def test_every_sample_validates(openai: OpenAI, schema: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: ask(openai, of_schema(schema), seed=seed), range(12)))
    texts = [answer.choices[0].message.content for answer in answers]
    for answer, text in zip(answers, texts, strict=True):
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
    assert len(set(texts)) > 3
    assert ask(openai, of_schema(schema), seed=0).choices[0].message.content == texts[0]


def test_with_everything_else(openai: OpenAI) -> None:
    chunks = list(
        ask(
            openai, of_schema(PERSON), n=2, seed=5, stream=True, logprobs=True, top_logprobs=2,
            frequency_penalty=1.0, presence_penalty=0.5, top_p=0.9,
        )
    )  # fmt: skip
    for index in range(2):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        text = "".join(choice.delta.content or "" for choice in own)
        jsonschema.validate(json.loads(text), PERSON)
        tokens = [token for choice in own for token in choice.logprobs.content]
        assert text.startswith("".join(token.token for token in tokens[:-1]))
        assert own[-1].finish_reason == "stop"


def test_names_of_special_tokens_are_text(openai: OpenAI) -> None:
    text = ask(openai, of_schema({"const": "a <|im_end|> b"})).choices[0].message.content
    assert json.loads(text) == "a <|im_end|> b"


def test_a_stop_string_ends_a_constrained_text(openai: OpenAI) -> None:
    text = ask(openai, of_schema(PERSON), stop=":").choices[0].message.content
    assert text.rstrip().endswith('"name"')


def test_ignore_eos_does_not_outlive_the_grammar(openai: OpenAI) -> None:
    form = {"type": "regex", "value": "[0-9]{3}-[0-9]{4}"}
    answer = ask(openai, form, extra_body={"ignore_eos": True}).choices[0]
    assert re.fullmatch(form["value"], answer.message.content)
    assert answer.finish_reason == "stop"


def test_native_regex_and_lark(server: ServerProcess) -> None:
    for form, pattern in (
        ({"type": "regex", "value": "(yes|no), [a-z]{2,8}\\."}, "(yes|no), [a-z]{2,8}\\."),
        (
            {"type": "lark", "value": 'start: item ("," item){1,3}\nitem: /[a-z]{2,4}/ | "-"'},
            "([a-z]{2,4}|-)(,([a-z]{2,4}|-)){1,3}",
        ),
    ):
        body = {
            "inputs": "Well, ",
            "parameters": {"grammar": form, "do_sample": True, "max_new_tokens": 40},
        }
        answer = httpx.post(f"{server.url}/generate", json=body, timeout=60).json()
        assert re.fullmatch(pattern, answer["generated_text"])


def test_what_is_not_supported_is_named(openai: OpenAI) -> None:
    with pytest.raises(UnprocessableEntityError, match=r"grammar is not valid: .*uniqueItems"):
        ask(openai, of_schema({"type": "array", "uniqueItems": True}))


def test_hostile_grammars_disturb_nobody(server: ServerProcess, openai: OpenAI) -> None:
    free = {"model": "tgi", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 60}
    undisturbed = openai.completions.create(**free).choices[0].text
    done = threading.Event()

    def attack(form: dict[str, Any]) -> set[int]:
        statuses = set()
        while not done.is_set():
            body = {"inputs": "x", "parameters": {"grammar": form, "max_new_tokens": 16}}
            begin = time.monotonic()
            statuses.add(httpx.post(f"{server.url}/generate", json=body, timeout=60).status_code)
            assert time.monotonic() - begin < 20
        return statuses

    engine = server.engine.pid
    with ThreadPoolExecutor(len(HOSTILE)) as pool:
        attacks = [pool.submit(attack, form) for form in HOSTILE]
        try:
            text = openai.completions.create(**free).choices[0].text
        finally:
            done.set()
    assert text == undisturbed
    assert [attack.result() for attack in attacks] == [{422}] * len(HOSTILE)
    assert server.engine.pid == engine
