"""Scoring texts through /v1/completions, as evaluation harnesses do; transformers is the oracle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.e2e.server import ServerProcess
from tests.models.checkpoints import make_checkpoint

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Grüße, 日本! " * 40, "ab"]
TOP = 3


def save_tokenizer(folder: Path) -> Tokenizer:
    """Byte-level, of 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenAI, Tokenizer, Any]]:
    folder = tmp_path_factory.mktemp("tiny")
    changes = {"vocab_size": 320, "max_position_embeddings": 1024}
    oracle = make_checkpoint(folder, "LlamaForCausalLM", changes)
    tokenizer = save_tokenizer(folder)
    # A small step budget, so that long prompts are scored in chunks.
    with ServerProcess(
        "--model-id",
        str(folder),
        "--max-batch-prefill-tokens",
        "128",
        "--dtype",
        "float32",
        "--kv-cache-dtype",
        "float32",
    ) as server:
        server.wait_ready()
        client = OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)
        yield client, tokenizer, oracle


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("text", TEXTS, ids=["words", "long", "short"])
def test_log_likelihoods_are_transformers(
    served: tuple[OpenAI, Tokenizer, Any], text: str, max_tokens: int
) -> None:
    client, tokenizer, oracle = served
    ids = tokenizer.encode(text).ids
    with torch.no_grad():
        expected = oracle(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    for prompt in (ids, text):
        answer = client.completions.create(
            model="tgi", prompt=prompt, max_tokens=max_tokens, temperature=0, echo=True,
            logprobs=TOP,
        )  # fmt: skip
        choice = answer.choices[0]
        assert choice.text.startswith(text) and (choice.text == text or max_tokens)
        assert answer.usage is not None and answer.usage.completion_tokens == max_tokens
        scores: Any = choice.logprobs
        assert len(scores.token_logprobs) == len(scores.top_logprobs) == len(ids) + max_tokens
        assert scores.token_logprobs[0] is scores.top_logprobs[0] is None
        chosen = expected[torch.arange(len(ids) - 1), torch.tensor(ids[1:], dtype=torch.int64)]
        assert scores.token_logprobs[1 : len(ids)] == pytest.approx(chosen.tolist(), abs=1e-3)
        for at, top in enumerate(scores.top_logprobs[1 : len(ids)]):
            assert max(top.values()) == pytest.approx(float(expected[at].max()), abs=1e-3)
            is_greedy = ids[at + 1] == int(expected[at].argmax())
            assert (scores.token_logprobs[at + 1] == max(top.values())) == is_greedy


def test_scoring_several_prompts_in_a_stream(served: tuple[OpenAI, Tokenizer, Any]) -> None:
    client, tokenizer, _ = served
    options: Any = {"model": "tgi", "max_tokens": 0, "echo": True, "logprobs": 1}
    whole = client.completions.create(prompt=TEXTS, **options)
    texts = dict.fromkeys(range(len(TEXTS)), "")
    logprobs: dict[int, list[float]] = {index: [] for index in texts}
    for chunk in client.completions.create(prompt=TEXTS, stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            logprobs[choice.index] += choice.logprobs.token_logprobs  # type: ignore[union-attr,operator]
            assert choice.finish_reason == "length"
    assert list(texts.values()) == TEXTS
    for choice in whole.choices:
        assert choice.logprobs is not None
        scored = choice.logprobs.token_logprobs
        assert logprobs[choice.index][1:] == pytest.approx(scored[1:], abs=1e-4)  # type: ignore[index]
