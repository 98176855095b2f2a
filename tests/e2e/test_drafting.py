"""The executor's drafters in real servers: the same answers, and drafts that are right."""

from typing import Any

import httpx
import pytest

from headrace.checkpoint.embedded import embedded_model
from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

BODIES: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Tell me about rivers."}], "temperature": 0},
    {"messages": [{"role": "user", "content": "Tell me about bees."}], "temperature": 0.8,
     "seed": 5, "frequency_penalty": 0.3, "logprobs": True},
]  # fmt: skip


def answers(*arguments: str) -> tuple[list[Any], dict[str, int]]:
    """Choices of all bodies, and timings added up."""
    with ServerProcess(*arguments) as server:
        server.wait_ready()
        url = f"{server.url}/v1/chat/completions"
        replies = [
            httpx.post(url, json=body | {"model": "x", "max_tokens": 60}, timeout=90).json()
            for body in BODIES
        ]
    totals = {
        name: sum(reply["timings"][name] for reply in replies)
        for name in ("draft_n", "draft_n_accepted")
    }
    return [reply["choices"] for reply in replies], totals


def test_the_model_drafts_for_itself_as_draft_model() -> None:
    """Not cheaper, so that it is soon asked for single tokens only, but always right."""
    plain, _ = answers("--speculate", "0")
    drafted, totals = answers("--draft-model-id", str(embedded_model()))
    assert drafted == plain
    assert totals["draft_n"] > 0
    assert totals["draft_n_accepted"] > 0
