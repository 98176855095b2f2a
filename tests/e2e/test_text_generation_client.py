"""The `text-generation` client, which pins huggingface-hub below 1: it gets its own environment."""

import json
import re
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
REQUIREMENT = "text-generation==0.7.0"
ENVIRONMENT = ROOT / ".venv-clients"
SCRIPT = Path(__file__).with_name("text_generation_client.py")


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of an environment with the client, made once and kept."""
    python, done = ENVIRONMENT / "bin" / "python", ENVIRONMENT / REQUIREMENT
    if not done.exists():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        result = subprocess.run([*install, REQUIREMENT], capture_output=True, text=True)
        if result.returncode:
            reached = "Could not find a version" not in result.stderr
            (pytest.fail if reached else pytest.skip)(
                f"NOT TESTED against the text-generation client: pip cannot install {REQUIREMENT} "
                f"into {ENVIRONMENT}:\n{result.stderr[-2000:]}"
            )
        done.touch()
    return python


@pytest.fixture(scope="module")
def answers(python: Path, server: ServerProcess) -> Any:
    result = subprocess.run(
        [python, SCRIPT, server.url], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_generate(answers: Any) -> None:
    whole = answers["whole"]
    assert "Paris" in whole["generated_text"]
    details = whole["details"]
    assert details["finish_reason"] == "length"
    assert details["generated_tokens"] == len(details["tokens"]) == 8
    assert details["prefill"][0]["logprob"] is None and details["prefill"][1]["logprob"] < 0
    assert [len(top) >= 2 for top in details["top_tokens"]] == [True] * 8
    text = "".join(token["text"] for token in details["tokens"])
    assert whole["generated_text"].endswith(text)


def test_best_of(answers: Any) -> None:
    details = answers["best"]["details"]
    (other,) = details["best_of_sequences"]

    def mean(sequence: Any) -> float:
        logprobs: list[float] = [token["logprob"] for token in sequence["tokens"]]
        return sum(logprobs) / len(logprobs)

    assert mean(details) >= mean(other)


def test_generate_stream_is_the_whole(answers: Any) -> None:
    events = answers["stream"]
    tokens = [event["token"] for event in events]
    whole = answers["whole"]["details"]["tokens"]
    assert [token["id"] for token in tokens] == [token["id"] for token in whole]
    assert events[-1]["generated_text"].endswith("".join(token["text"] for token in tokens))
    assert events[-1]["details"]["generated_tokens"] == 8
    assert all(event["generated_text"] is None for event in events[:-1])


def test_grammar_watermark_and_errors(answers: Any) -> None:
    assert re.fullmatch(r"[0-9]{3}", answers["number"].removeprefix("The capital of France is"))
    assert answers["watermarked"]
    assert answers["refusal"].startswith("ValidationError: Input validation error: `stop` supports")


def test_chat(answers: Any) -> None:
    (choice,) = answers["chat"]["choices"]
    assert "Paris" in choice["message"]["content"]
    assert answers["chat"]["usage"]["completion_tokens"] <= 24
    (choice,) = answers["called"]["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert list(json.loads(call["function"]["arguments"])) == ["city"]
