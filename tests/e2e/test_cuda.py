"""The embedded model served on a GPU: the tokens that plain torch on the CPU gives."""

from typing import Any

import httpx
import pytest

from tests.e2e.server import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.cuda]

SAMPLED = {"temperature": 0.8, "top_p": 0.9, "seed": 5, "repetition_penalty": 1.1}
BODIES: list[dict[str, Any]] = [
    {"inputs": "Rivers are", "parameters": {"max_new_tokens": 24, "details": True}},
    {"inputs": "Bees", "parameters": {"max_new_tokens": 24, "details": True} | SAMPLED},
]


def answers(*arguments: str) -> list[list[tuple[int, float]]]:
    """Tokens and their log-probabilities."""
    with ServerProcess(*arguments) as server:
        server.wait_ready(timeout=180)
        replies = [
            httpx.post(f"{server.url}/generate", json=body, timeout=120).json() for body in BODIES
        ]
    return [[(t["id"], t["logprob"]) for t in reply["details"]["tokens"]] for reply in replies]


def test_tokens_are_those_of_the_cpu() -> None:
    on_cpu = answers("--device", "cpu", "--kernels", "torch")
    on_gpu = answers("--device", "cuda", "--dtype", "float32")
    for ours, expected in zip(on_gpu, on_cpu, strict=True):
        assert [token for token, _ in ours] == [token for token, _ in expected]
        assert [p for _, p in ours] == pytest.approx([p for _, p in expected], abs=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_near_it(dtype: str) -> None:
    """First tokens: what is behind another token is another text."""
    on_cpu = answers("--device", "cpu", "--kernels", "torch")
    on_gpu = answers("--device", "cuda", "--dtype", dtype)
    assert on_gpu[0][0][0] == on_cpu[0][0][0]
    assert on_gpu[0][0][1] == pytest.approx(on_cpu[0][0][1], abs=0.1)
