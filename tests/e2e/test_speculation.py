"""Speculation in a real server: the same answers as without, in fewer steps, and visible."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

MOST_AFTER_STOPS = 48
"""Drafts of three steps of two requests, which may begin before their abort arrives."""
TEXT = "The headrace brings water to the wheel. The wheel turns the stone. The stone grinds corn."
SCHEMA = {
    "type": "object",
    "properties": {"first_name": {"type": "string", "maxLength": 9}, "is_old": {"type": "boolean"}},
    "required": ["first_name", "is_old"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "note_person", "parameters": SCHEMA}}
BODIES: list[dict[str, Any]] = [
    {"content": f"Repeat word for word: {TEXT} {TEXT}", "max_tokens": 60},
    {"content": f"Repeat: {TEXT}", "max_tokens": 60, "temperature": 0.6, "seed": 1, "n": 2,
     "frequency_penalty": 0.2, "logprobs": True, "top_logprobs": 2},
    {"content": "Somebody, as JSON.", "temperature": 0.8, "seed": 3, "max_tokens": 60,
     "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {"content": f"Repeat word for word: {TEXT} {TEXT}", "max_tokens": 60, "stop": ["wheel turns"]},
    {"content": "Note Ada, who is old.", "max_tokens": 60, "tools": [TOOL],
     "tool_choice": {"type": "function", "function": {"name": "note_person"}}},
]  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> Iterator[ServerProcess]:
    with ServerProcess("--speculate", "0") as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def speculative() -> Iterator[ServerProcess]:
    with ServerProcess("--speculate", "8") as process:
        yield process.wait_ready()


def ask(server: ServerProcess, body: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": body["content"]}]
    body = {"model": "tgi", "temperature": 0, **body, "messages": messages}
    del body["content"]
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=90)
    answer.raise_for_status()
    result: dict[str, Any] = answer.json()
    return result


def choices(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Without the ids of tool calls, which are drawn."""
    for choice in answer["choices"]:
        for call in choice["message"].get("tool_calls") or []:
            call.pop("id", None)
    found: list[dict[str, Any]] = answer["choices"]
    return found


def test_the_same_answers_in_fewer_steps(plain: ServerProcess, speculative: ServerProcess) -> None:
    expected = [ask(plain, body) for body in BODIES]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: ask(speculative, body), BODIES * 2))
    for answer, other in zip(answers, expected * 2, strict=True):
        assert choices(answer) == choices(other)
    assert all(answer["timings"]["draft_n"] == 0 for answer in expected)
    for answer in answers[:1]:
        assert 0 < answer["timings"]["draft_n_accepted"] <= answer["timings"]["draft_n"]
    assert sum(answer["timings"]["forced_n"] for answer in answers) > 0
    drafted = sum(answer["timings"]["draft_n"] for answer in answers)
    accepted = sum(answer["timings"]["draft_n_accepted"] for answer in answers)
    # The metrics also count the steps that a request takes between its stop string and its end.
    assert 0 <= speculative.metric("headrace_draft_tokens") - drafted <= MOST_AFTER_STOPS
    assert 0 <= speculative.metric("headrace_accepted_draft_tokens") - accepted <= MOST_AFTER_STOPS
    assert speculative.metric("tgi_request_skipped_tokens_sum") >= accepted
    assert plain.metric("tgi_request_skipped_tokens_sum") == 0
    assert plain.metric("tgi_request_skipped_tokens_count") > 0


def test_a_speculated_stream_outlives_its_engine(
    plain: ServerProcess, speculative: ServerProcess
) -> None:
    body = {"model": "tgi", "prompt": TEXT * 3, "temperature": 0.5, "seed": 9, "max_tokens": 150}
    whole = httpx.post(f"{plain.url}/v1/completions", json=body, timeout=90).json()
    engine = speculative.engine
    pieces = 0
    text = ""
    with httpx.stream(
        "POST", f"{speculative.url}/v1/completions", json=body | {"stream": True}, timeout=90
    ) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                text += httpx.Response(200, content=line[6:]).json()["choices"][0]["text"]
                pieces += 1
                if pieces == 3:
                    engine.kill()
    assert text == whole["choices"][0]["text"]
    assert speculative.engine.pid != engine.pid
