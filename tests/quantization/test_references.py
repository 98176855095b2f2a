"""Checkpoints written by the formats' own libraries, and what these libraries compute.

bitsandbytes, which brings torch's compiler with it, is not imported whenever tests are collected.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from headrace.quantization.on_load import ON_LOAD
from tests.models.checkpoints import make_checkpoint
from tests.models.driver import ALL_ENGINES, every_engine
from tests.quantization.checkpoints import SIZES, write_quantized
from tests.quantization.formats import FORMATS
from tests.quantization.test_formats import PROMPT, error, logits_of

SIZES_128 = SIZES | {"intermediate_size": 128}


@pytest.mark.parametrize("element", ["nf4", "fp4"])
def test_rounding_to_codebooks_is_bitsandbytes(element: str) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    matrix = torch.randn(32, 128)
    theirs = dequantize_4bit(*quantize_4bit(matrix, quant_type=element, blocksize=64))
    ours = ON_LOAD[f"bitsandbytes-{element}"].layers(matrix).dequantize()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def dequantized(module: Any) -> torch.Tensor:
    """A linear layer's weight by bitsandbytes' own functions."""
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    if isinstance(module, Linear4bit):
        return dequantize_4bit(module.weight.data, module.weight.quant_state)
    if isinstance(module, Linear8bitLt):
        return int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
    return module.weight.data


@every_engine
@pytest.mark.parametrize(
    "settings",
    [
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
        {"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head", "v_proj"]},
    ],
)
def test_bitsandbytes(settings: dict[str, Any], engine: str, tmp_path: Path) -> None:
    floats = make_checkpoint(tmp_path / "float", "LlamaForCausalLM", SIZES_128)
    config = transformers.BitsAndBytesConfig(**settings)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "float", quantization_config=config, dtype=torch.float32, device_map="cpu"
    )
    model.save_pretrained(tmp_path / "stored")
    # Its own products on the CPU round to bfloat16, so that only its weights are the reference.
    for name, module in floats.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data.copy_(dequantized(model.get_submodule(name)))
    with torch.inference_mode():
        wanted = floats(torch.tensor([PROMPT])).logits[0]
    assert error(logits_of(ALL_ENGINES[engine](tmp_path / "stored")), wanted) < 3e-3


# Current versions of the library have dropped groups in activation order.
READ_BY_LIBRARY = {
    name: transformers.CompressedTensorsConfig(run_compressed=False)
    for name in FORMATS
    if name.startswith("ct-") and "act-order" not in name
} | {
    "fp8-blocks": transformers.FineGrainedFP8Config(
        dequantize=True, weight_block_size=FORMATS["fp8-blocks"].config["weight_block_size"]
    )
}


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("name", READ_BY_LIBRARY)
def test_the_library_reads_what_our_tests_write(name: str, tmp_path: Path) -> None:
    """The writers that the other tests rely on, against the format's own library."""
    model = write_quantized(tmp_path, FORMATS[name])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=READ_BY_LIBRARY[name], dtype=torch.float32
    )
    with torch.inference_mode():
        wanted, got = (each(torch.tensor([PROMPT])).logits[0] for each in (model, theirs))
    assert error(got, wanted) < 1e-4
