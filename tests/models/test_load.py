"""What a model runs on, and what follows from that."""

from pathlib import Path

import pytest
import torch

from headrace.attention.native import NativeBackend
from headrace.attention.paged import PagedBackend
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.kernels import load as load_kernels
from headrace.kernels.twins import TorchKernels
from headrace.models import ARCHITECTURES
from headrace.models.load import LoadOptions, _default_kv_dtype, load_model
from tests.models.checkpoints import CASES, cases_of, make_checkpoint
from tests.models.driver import Driver

CPU = torch.device("cpu")


def options(**changes: object) -> LoadOptions:
    return LoadOptions(**{"dtype": torch.float32, "device": CPU, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "backend_class", "kv_dtype"),
    [(96, NativeBackend, torch.float16), (100, PagedBackend, torch.float32)],
)
def test_cache_is_narrow_on_the_kernels_only(
    tmp_path: Path, size: int, backend_class: type, kv_dtype: torch.dtype
) -> None:
    """MLPs of 100 elements are not for the kernels: the cache must not be as narrow as theirs."""
    make_checkpoint(tmp_path, "LlamaForCausalLM", {"intermediate_size": size})
    _, backend = load_model(open_checkpoint(tmp_path), options(kernels=load_kernels()))
    assert isinstance(backend, backend_class)
    assert backend.shape.kv_dtype == kv_dtype


def test_a_cache_that_is_asked_for_is_kept(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", "plain")
    asked = options(kernels=load_kernels(), kv_dtype=torch.int8)
    _, backend = load_model(open_checkpoint(tmp_path), asked)
    assert isinstance(backend, NativeBackend) and backend.shape.kv_dtype == torch.int8


@pytest.mark.parametrize(("asked", "expected"), [(None, 512), (100, 100), (9999, 512)])
def test_the_longest_request_bounds_the_context(
    tmp_path: Path, asked: int | None, expected: int
) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", "plain")
    decoder, _ = load_model(open_checkpoint(tmp_path), options(max_total_tokens=asked))
    assert decoder.spec.max_position == expected


@pytest.mark.parametrize("asked, length", [(64, 60), (None, 70)])
def test_longrope_goes_by_the_longest_request(
    tmp_path: Path, asked: int | None, length: int
) -> None:
    """transformers has short factors up to 64 tokens, and long ones from there on."""
    changes = {**CASES["Phi3ForCausalLM"]["short"], "original_max_position_embeddings": 64}
    model = make_checkpoint(tmp_path, "Phi3ForCausalLM", changes)
    driver = Driver(*load_model(open_checkpoint(tmp_path), options(max_total_tokens=asked)))
    tokens = torch.arange(length)
    (logits,) = driver.step([(driver.start(tokens.tolist()), length)])
    with torch.inference_mode():
        expected = model(tokens[None]).logits[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dummy_weights_have_the_sizes_of_real_ones(tmp_path: Path, architecture: str) -> None:
    make_checkpoint(tmp_path, architecture, next(iter(cases_of(architecture))))
    checkpoint = open_checkpoint(tmp_path)
    real, _ = load_model(checkpoint, options())
    dummy, backend = load_model(checkpoint, options(load_format="dummy"))
    assert dummy.weight_bytes == real.weight_bytes
    driver = Driver(dummy, backend)
    (logits,) = driver.step([(driver.start([1, 2, 3]), 3)])
    assert logits.shape == (3, 199) and torch.isfinite(logits).all()


def test_the_cache_is_narrow_on_the_kernels_and_bfloat16_where_they_multiply_it_in_tiles() -> None:
    kernels, as_stored = TorchKernels("test"), options()
    bfloat16, float16 = {"dtype": "bfloat16"}, {"dtype": "float16"}
    quantized = float16 | {"quantization_config": {"quant_method": "gptq"}}
    assert _default_kv_dtype(bfloat16, as_stored, None) == torch.float32
    for config in (bfloat16, float16, quantized):
        assert _default_kv_dtype(config, as_stored, kernels) == torch.float16
    kernels.has_bfloat16_products = True
    for config in (bfloat16, quantized, {"dtype": None}):
        assert _default_kv_dtype(config, as_stored, kernels) == torch.bfloat16
    assert _default_kv_dtype(float16, as_stored, kernels) == torch.float16
    assert _default_kv_dtype(float16, options(quantize="nf4"), kernels) == torch.bfloat16
