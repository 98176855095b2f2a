"""Float checkpoints that are quantized while loading, against each method's own definition."""

from pathlib import Path

import pytest
import torch

from headrace.errors import StartupError
from headrace.quantization.on_load import ON_LOAD
from tests.models.checkpoints import make_checkpoint
from tests.models.driver import ENGINES, drive_cuda
from tests.quantization.checkpoints import SIZES
from tests.quantization.test_formats import error, logits_of

# Relative error of each method's weights, by simulation with normally distributed ones.
EXPECTED = {
    "int4": 0.08,
    "int8": 0.006,
    "eetq": 0.009,
    "bitsandbytes": 0.009,
    "bitsandbytes-nf4": 0.1,
    "bitsandbytes-fp4": 0.13,
    "fp8": 0.03,
}


@pytest.mark.parametrize("quantize", ON_LOAD)
def test_weights_are_as_near_as_the_method_allows(quantize: str) -> None:
    matrix = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    rounded = ON_LOAD[quantize].layers(matrix).dequantize()
    assert 0.5 * EXPECTED[quantize] < error(rounded, matrix) < EXPECTED[quantize]


@pytest.mark.parametrize("quantize", ON_LOAD)
def test_every_engine_computes_the_same_model(quantize: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", SIZES)
    torch_logits, kernel_logits = (
        logits_of(drive(tmp_path, quantize=quantize)) for drive in ENGINES.values()
    )
    assert error(kernel_logits, torch_logits) < 3e-3
    quick = logits_of(ENGINES["kernels"](tmp_path, quantize=quantize, exact_activations=False))
    assert error(quick, torch_logits) < 0.05


@pytest.mark.cuda
@pytest.mark.parametrize("quantize", ON_LOAD)
def test_a_gpu_computes_the_same_model(quantize: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", SIZES)
    expected = logits_of(ENGINES["torch"](tmp_path, quantize=quantize))
    assert error(logits_of(drive_cuda(tmp_path, quantize=quantize)), expected) < 1e-4


def test_a_gguf_file_keeps_what_it_has() -> None:
    from headrace.checkpoint.embedded import embedded_model

    with pytest.raises(StartupError, match="--quantize int8: a GGUF file"):
        ENGINES["torch"](embedded_model(), quantize="int8")
