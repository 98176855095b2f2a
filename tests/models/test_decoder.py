"""Our decoder and the fallback against transformers: every architecture in the registry, and some
that are in none."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.attention.native import NativeBackend
from headrace.models import ARCHITECTURES, llama
from headrace.models.spec import DecoderSpec
from tests.models.checkpoints import ALL_CASES, CASES, make_checkpoint
from tests.models.driver import (
    ALL_ENGINES,
    ENGINES,
    Driver,
    Replayed,
    drive,
    drive_cuda,
    every_engine,
)
from tests.models.transformers.checkpoints import FALLBACK_CASES


def random_prompts(*lengths: int) -> list[list[int]]:
    generator = random.Random(sum(lengths))
    return [[generator.randrange(199) for _ in range(length)] for length in lengths]


class Reference:
    """A transformers model that remembers its answers, as every engine is asked the same."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._logits: dict[tuple[int, ...], torch.Tensor] = {}
        self._greedy: dict[tuple[int, ...], list[int]] = {}

    def logits(self, tokens: list[int]) -> torch.Tensor:
        if tuple(tokens) not in self._logits:
            with torch.inference_mode():
                self._logits[tuple(tokens)] = self.model(torch.tensor([tokens])).logits[0]
        return self._logits[tuple(tokens)]

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        key = (num_tokens, *prompt)
        if key not in self._greedy:
            output = self.model.generate(
                torch.tensor([prompt]),
                max_new_tokens=num_tokens,
                do_sample=False,
                eos_token_id=-1,
                pad_token_id=0,
            )
            self._greedy[key] = output[0, len(prompt) :].tolist()
        return self._greedy[key]


class Case:
    """A checkpoint: transformers' model of it, and ours, one for each engine."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder = folder
        self.reference = Reference(model)
        self.driver: Callable[[str], Driver] = cache(lambda engine: ALL_ENGINES[engine](folder))


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-4)


def prefill(driver: Driver, tokens: list[int], chunks: list[int]) -> torch.Tensor:
    assert sum(chunks) == len(tokens)
    sequence = driver.start(tokens)
    return torch.cat([driver.step([(sequence, chunk)])[0] for chunk in chunks])


def test_every_architecture_is_tested() -> None:
    """Those without cases of their own with transformers' defaults."""
    assert set(CASES) < set(ARCHITECTURES)
    assert {case.values[0][0] for case in ALL_CASES} == set(ARCHITECTURES)  # type: ignore[index]


@pytest.fixture(scope="module")
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    architecture, case = request.param
    folder = tmp_path_factory.mktemp("checkpoint")
    # Several shards in one case.
    save = {"max_shard_size": "60KB"} if case == "plain" else {}
    model = make_checkpoint(folder, architecture, case, **save)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == bool(save)
    return Case(folder, model)


every_case = pytest.mark.parametrize("checkpoint", ALL_CASES + FALLBACK_CASES, indirect=True)


@every_engine
@every_case
def test_ragged_batch_matches_transformers(checkpoint: Case, engine: str) -> None:
    driver, reference = checkpoint.driver(engine), checkpoint.reference
    prompts = random_prompts(3, 40, 1, 17, 70)
    sequences = [driver.start(prompt) for prompt in prompts]
    outputs = driver.step([(s, len(s.tokens)) for s in sequences])
    for prompt, logits in zip(prompts, outputs, strict=True):
        assert logits.dtype == torch.float32
        assert_close(logits, reference.logits(prompt))


@pytest.mark.parametrize("checkpoint", ALL_CASES, indirect=True)
def test_native_families_run_on_the_kernels(checkpoint: Case) -> None:
    """All but those whose sizes are no whole groups; else the tests above would say little."""
    is_whole = checkpoint.reference.model.config.get_text_config().hidden_size % 32 == 0
    assert isinstance(checkpoint.driver("kernels").backend, NativeBackend) == is_whole


@every_engine
@every_case
def test_chunked_prefill_matches_transformers(checkpoint: Case, engine: str) -> None:
    driver, reference = checkpoint.driver(engine), checkpoint.reference
    (prompt,) = random_prompts(75)
    for chunks in ([1, 1, 7, 24, 1, 32, 9], [9, 1, 40, 1, 15, 9]):
        assert_close(prefill(driver, prompt, chunks), reference.logits(prompt))


@every_engine
@every_case
@pytest.mark.parametrize("num_sampled", [0, 1, 4])
def test_sampled_tokens_are_as_in_a_whole_step(
    checkpoint: Case, engine: str, num_sampled: int
) -> None:
    """On the kernels to the bit."""
    driver = checkpoint.driver(engine)
    prompts = random_prompts(3, 40, 1, 70)

    def run(num_sampled: int | None) -> list[torch.Tensor]:
        sequences = [driver.start(prompt) for prompt in prompts]
        driver.step([(sequences[1], 20)], num_sampled)
        work = [(s, len(s.tokens) - s.computed) for s in sequences]
        return driver.step(work, num_sampled)

    for some, everything in zip(run(num_sampled), run(None), strict=True):
        wanted = everything[len(everything) - min(num_sampled, len(everything)) :]
        if isinstance(driver.model, Replayed):
            assert torch.equal(some, wanted)
        else:
            assert_close(some, wanted)


@every_engine
@every_case
def test_greedy_tokens_are_those_of_transformers(checkpoint: Case, engine: str) -> None:
    """One sequence grows past a sliding window, one past a block's end."""
    prompts = random_prompts(3, 28, 12)
    answers = checkpoint.driver(engine).greedy(prompts, 8)
    assert answers == [checkpoint.reference.greedy(prompt, 8) for prompt in prompts]


@every_engine
@every_case
def test_decodes_beside_prompts_and_shared_blocks(checkpoint: Case, engine: str) -> None:
    driver, reference = checkpoint.driver(engine), checkpoint.reference
    first, second, other = random_prompts(72, 20, 31)
    one = driver.start(first)
    driver.step([(one, 71)])
    two = driver.start(first[:64] + second, shared=one)
    assert two.computed == 64
    three = driver.start(other)
    outputs = driver.step([(one, 1), (two, 20), (three, 31)])
    expected = [reference.logits(s.tokens) for s in (one, two, three)]
    assert_close(outputs[0], expected[0][-1:])
    assert_close(outputs[1], expected[1][-20:])
    assert_close(outputs[2], expected[2])


@every_engine
def test_dynamic_rope_matches_incremental_decoding(tmp_path: Path, engine: str) -> None:
    """Past the trained length transformers' angles follow the growing length, as ours do."""
    changes = {
        "max_position_embeddings": 32,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    }
    reference = Reference(make_checkpoint(tmp_path, "LlamaForCausalLM", changes))
    (prompt,) = random_prompts(20)
    (tokens,) = ALL_ENGINES[engine](tmp_path).greedy([prompt], 50)
    assert tokens == reference.greedy(prompt, 50)


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_may_have_numbers_of_heads_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """In one layer each key head is there twice, which changes nothing but the cache."""
    reference = Reference(make_checkpoint(tmp_path, "LlamaForCausalLM", {}))
    tensors = load_file(tmp_path / "model.safetensors")
    for kind in "kv":
        name = f"model.layers.1.self_attn.{kind}_proj.weight"
        tensors[name] = tensors[name].unflatten(0, (2, 16)).repeat_interleave(2, 0).flatten(0, 1)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    plain = llama.spec

    def spec(config: dict[str, Any]) -> DecoderSpec:
        first, second, third = plain(config).layers
        second = replace(second, attention=replace(second.attention, num_kv_heads=4))
        return replace(plain(config), layers=(first, second, third))

    monkeypatch.setattr(llama, "spec", spec)
    driver = ENGINES[engine](tmp_path)
    assert [layer.num_kv_heads for layer in driver.backend.shape.layers] == [2, 4, 2]
    prompts = random_prompts(3, 40, 70)
    assert driver.greedy(prompts, 8) == [reference.greedy(prompt, 8) for prompt in prompts]


def test_weight_bytes_count_tied_embeddings_once(tmp_path: Path) -> None:
    for case in ("tied", "plain"):
        model = make_checkpoint(tmp_path / case, "LlamaForCausalLM", case)
        stored = sum(p.nbytes for p in model.parameters())
        assert drive(tmp_path / case).model.weight_bytes == stored


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    reference = Reference(make_checkpoint(tmp_path, "Qwen3ForCausalLM", "plain"))
    (prompt,) = random_prompts(40)
    driver = drive(tmp_path, dtype=dtype, kv_dtype=dtype)
    expected = reference.logits(prompt)
    error = (prefill(driver, prompt, [16, 16, 8]) - expected).norm() / expected.norm()
    assert error < 0.05


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, limit", [(torch.bfloat16, 0.25), (torch.float16, 0.06)])
@pytest.mark.parametrize("checkpoint", ALL_CASES, indirect=True)
def test_half_precision_on_a_gpu_stays_near_float32(
    checkpoint: Case, dtype: torch.dtype, limit: float
) -> None:
    """At half of the tokens: in mixtures others may go to other experts."""
    (prompt,) = random_prompts(40)
    driver = drive_cuda(checkpoint.folder, dtype=dtype, kv_dtype=dtype)
    expected = checkpoint.reference.logits(prompt)
    differences = prefill(driver, prompt, [16, 16, 8]) - expected
    assert (differences.norm(dim=1) / expected.norm(dim=1)).median() < limit
