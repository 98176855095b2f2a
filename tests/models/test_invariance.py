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
OTHERS = [[(i * 104729 + k) % 40000 + 20 for i in range(3 + 13 * k)] for k in range(6)]


@pytest.fixture(scope="module", params=[torch.float16, torch.bfloat16, torch.int8], ids=str)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    yield drive_kernels(embedded_model(), exact_activations=False, kv_dtype=request.param)


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


@pytest.mark.parametrize("chunks", [[1] * 75, [32, 32, 11], [70, 1, 1, 1, 2], [9] * 8 + [3]])
def test_chunks(driver: Driver, alone: torch.Tensor, chunks: list[int]) -> None:
    assert torch.equal(prefill(driver, chunks), alone)


@pytest.mark.parametrize("place", range(0, 7, 3))
def test_company(driver: Driver, alone: torch.Tensor, place: int) -> None:
    prompts = [*OTHERS[:place], PROMPT, *OTHERS[place:]]
    work = [(driver.start(prompt), len(prompt)) for prompt in prompts]
    assert torch.equal(driver.step(work)[place], alone)


def test_decode_in_company(driver: Driver, alone: torch.Tensor) -> None:
    sequences = [driver.start(prompt) for prompt in (*OTHERS, PROMPT)]
    driver.step([(s, len(s.tokens) - 1) for s in sequences if len(s.tokens) > 1])
    assert torch.equal(driver.step([(s, 1) for s in sequences])[-1][0], alone[-1])


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
        kernels.set_num_threads(2)


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
