"""The embedded SmolLM2-135M-Instruct (Q4_1) against transformers reading the same file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.checkpoint.embedded import embedded_model
from tests.models.driver import Driver, drive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPTS = """\
The capital of France is
Water boils at a temperature of
def fibonacci(n):
Once upon a time, in a small village by the sea,
The three primary colours are
List five animals that live in the rainforest:
Dear Sir or Madam, I am writing to
The theory of relativity was proposed by
In 1969, the first man
To make an omelette, you first need to
import numpy as np
The quick brown fox
Q: What is the largest planet? A:
She opened the door and saw
El perro está en
SELECT name FROM users WHERE
The meaning of life is
1, 1, 2, 3, 5, 8,
Photosynthesis is the process by which
The best way to learn a language is""".splitlines()


@pytest.fixture(scope="module")
def path() -> Path:
    return embedded_model()


@pytest.fixture(scope="module")
def reference(path: Path) -> Any:
    """transformers' own reading of the file (from_pretrained would want accelerate as well)."""
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = LlamaConfig(**load_gguf_checkpoint(path)["config"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    model.tie_weights()
    return model.eval()


@pytest.fixture(scope="module")
def prompts(path: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


@pytest.fixture(scope="module")
def driver(path: Path) -> Iterator[Driver]:
    yield drive(path)


def test_logits(driver: Driver, reference: Any, prompts: list[list[int]]) -> None:
    sequences = [driver.start(prompt) for prompt in prompts[:4]]
    outputs = driver.step([(s, len(s.tokens)) for s in sequences])
    for prompt, logits in zip(prompts, outputs, strict=False):
        with torch.inference_mode():
            expected = reference(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=2e-3)


def test_greedy_tokens(driver: Driver, reference: Any, prompts: list[list[int]]) -> None:
    """Each of our tokens is the likeliest by transformers, given all of ours before it."""
    for prompt, tokens in zip(prompts, driver.greedy(prompts, 64), strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + tokens[:-1]])).logits[0]
        assert logits[len(prompt) - 1 :].argmax(-1).tolist() == tokens
