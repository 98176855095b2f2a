"""Promise 1 on the CPU kernels, quantized and at full size: a token's logits are the same bits
whatever shares its batch, however its prompt was chunked, wherever its blocks lie."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from headrace.attention.native import NativeBackend
from headrace.checkpoint.embedded import embedded_model
from headrace.kernels import load as load_kernels
from tests.models.checkpoints import make_checkpoint
from tests.models.driver import Driver, drive_kernels

PROMPT = [(i * 7919) % 40000 + 20 for i in range(75)]
OTHERS = [[(i * 104729 + k) % 40000 + 20 for i in range(3 + 13 * k)] for k in range(4)]


PROMPT_DTYPE = torch.bfloat16 if load_kernels().has_bfloat16_products else torch.float32
"""Of activations at prompt positions, where they differ from those at generated ones."""


@pytest.fixture(
    scope="module",
    params=[
        {"kv_dtype": torch.float16},
        {"kv_dtype": torch.bfloat16},
        {"kv_dtype": torch.int8},
        {"kv_dtype": torch.float16, "prompt_dtype": PROMPT_DTYPE},
    ],
    ids=str,
)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    yield drive_kernels(embedded_model(), exact_activations=False, **request.param)


def prefill(driver: Driver, chunks: list[int]) -> torch.Tensor:
    sequence = driver.start(PROMPT)
    parts = []
    for chunk in chunks:
        parts += driver.step([(sequence, chunk)])
    assert sequence.computed == len(PROMPT)
    return torch.cat(parts)


@pytest.fixture(scope="module")
def alone(driver: Driver) -> torch.Tensor:
    return prefill(driver, [75])


@pytest.mark.parametrize("chunks", [[*[1] * 9, 57, *[1] * 9], [32, 32, 11], [40, 9, 9, 9, 6, 2]])
def test_chunks(driver: Driver, alone: torch.Tensor, chunks: list[int]) -> None:
    assert torch.equal(prefill(driver, chunks), alone)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_company(driver: Driver, alone: torch.Tensor, place: int) -> None:
    prompts = [*OTHERS[:place], PROMPT, *OTHERS[place:]]
    work = [(driver.start(prompt), len(prompt)) for prompt in prompts]
    assert torch.equal(driver.step(work)[place], alone)


def test_decode_in_company(driver: Driver, alone: torch.Tensor) -> None:
    sequences = [driver.start(prompt) for prompt in (*OTHERS, PROMPT)]
    driver.step([(s, len(s.tokens) - 1) for s in sequences if len(s.tokens) > 1])
    assert torch.equal(driver.step([(s, 1) for s in sequences])[-1][0], alone[-1])


@pytest.mark.parametrize("chunks", [[50, *[1] * 6, 19], [32, 18, 20, 5], [49, 1, 1, 24]])
def test_generated_tokens(driver: Driver, chunks: list[int]) -> None:
    """Behind a prompt of 50 tokens, drafted or computed once more, while others come and go."""
    alone = driver.start(PROMPT, num_prompt_tokens=50)
    wanted = torch.cat([driver.step([(alone, count)])[0] for count in (50, 25)])
    sequence, parts = driver.start(PROMPT, num_prompt_tokens=50), []
    for index, chunk in enumerate(chunks):
        tokens = OTHERS[index % 3]
        prompt, answer = driver.start(tokens), driver.start(tokens, num_prompt_tokens=1)
        driver.step([(answer, 1)])
        work = [(prompt, len(tokens)), (sequence, chunk), (answer, len(tokens) - 1)]
        parts.append(driver.step(work)[1])
    assert torch.equal(torch.cat(parts), wanted)


def test_shared_prefix(driver: Driver, alone: torch.Tensor) -> None:
    first = driver.start(PROMPT)
    driver.step([(first, 75)])
    second = driver.start(PROMPT, shared=first)
    assert second.computed == 64
    assert torch.equal(driver.step([(second, 11)])[0], alone[64:])


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads(driver: Driver, alone: torch.Tensor, num_threads: int) -> None:
    kernels = load_kernels()
    kernels.set_num_threads(num_threads)
    try:
        assert torch.equal(prefill(driver, [40, 35]), alone)
    finally:
        kernels.set_num_threads(1)


@pytest.mark.parametrize(
    "architecture",
    [
        "MixtralForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3MoeForCausalLM",
        "GptOssForCausalLM",
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "Llama4ForCausalLM",
    ],
)
def test_mixtures_of_experts(tmp_path: Path, architecture: str) -> None:
    """Which experts the other tokens go to changes nothing."""
    make_checkpoint(tmp_path, architecture, "plain")
    driver = drive_kernels(tmp_path)
    assert isinstance(driver.backend, NativeBackend)
    prompts = [[token % 199 for token in prompt] for prompt in (*OTHERS, PROMPT)]
    work = [(driver.start(prompt), len(prompt)) for prompt in prompts]
    together = driver.step(work)[-1]
    for chunks in ([75], [1] * 75, [9] * 8 + [3]):
        sequence = driver.start(prompts[-1])
        parts = [driver.step([(sequence, chunk)])[0] for chunk in chunks]
        assert torch.equal(torch.cat(parts), together)


def test_mixtures_of_experts_in_two_arithmetics(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "Qwen3MoeForCausalLM", "plain")
    driver = drive_kernels(
        tmp_path, quantize="int4", exact_activations=False, prompt_dtype=PROMPT_DTYPE
    )
    prompts = [[token % 199 for token in prompt] for prompt in (*OTHERS, PROMPT)]

    def compute(chunks: list[int], company: list[list[int]]) -> torch.Tensor:
        sequence, parts = driver.start(prompts[-1], num_prompt_tokens=40), []
        for chunk in chunks:
            work = [(driver.start(tokens), len(tokens)) for tokens in company]
            parts.append(driver.step([*work, (sequence, chunk)])[-1])
        return torch.cat(parts)

    alone = compute([40, 35], [])
    assert not torch.equal(alone[40:], driver.step([(driver.start(prompts[-1]), 75)])[0][40:])
    for chunks in ([39, 1, 1, 30, 4], [9, 31, 30, 5]):
        for company in (prompts[:3], prompts[3:-1]):
            assert torch.equal(compute(chunks, company), alone)
