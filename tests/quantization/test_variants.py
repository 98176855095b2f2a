"""Every variant of every format: what a layer takes in memory, against the arithmetic of its
definition, and what it computes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from headrace.checkpoint.ggml import GGMLType
from headrace.kernels import BLOCK_FORMATS
from headrace.kernels import load as load_kernels
from headrace.quantization import ON_LOAD, LinearWeight, Target, open_scheme
from headrace.quantization.none import Unquantized
from headrace.weights.base import RawTensor
from headrace.weights.parts import Part
from tests.kernels.samples import random_blocks
from tests.quantization.formats import (
    FORMATS,
    Format,
    awq,
    bitsandbytes_4bit,
    compressed_tensors,
    fp8,
    gptq,
)
from tests.quantization.test_damaged import DictWeights
from tests.quantization.test_formats import error
from tests.quantization.test_mxfp4 import random_experts

OUTPUTS, INPUTS = 512, 1024
EXACT = Target(dtype=torch.float32, device=torch.device("cpu"), exact_activations=True)
TARGETS = {
    "torch": EXACT,
    "float32 activations": replace(EXACT, kernels=load_kernels("native")),
    "int8 activations": replace(EXACT, kernels=load_kernels("native"), exact_activations=False),
}
WHOLE = [Part.whole()]
NAME = "layer"


def formats() -> Iterator[tuple[str, Format]]:
    for bits in (2, 3, 4, 8):
        for size in (-1, 32, 64, 128):
            for symmetric in (True, False):
                name = f"gptq-{bits}bit-{size}-{'sym' if symmetric else 'asym'}"
                yield name, gptq(bits, size, symmetric=symmetric)
                if size != -1:
                    ordered = gptq(bits, size, symmetric=symmetric, act_order=True)
                    yield f"{name}-act-order", ordered
        yield f"gptq-{bits}bit-v2", gptq(bits, 128, symmetric=False, version=2)
    for size in (32, 64, 128):
        yield f"awq-{size}", awq(size)
        for symmetric in (True, False):
            grouped: dict[str, Any] = {
                "strategy": "group", "group_size": size, "symmetric": symmetric,
            }  # fmt: skip
            kind = f"{size}-{'sym' if symmetric else 'asym'}"
            yield f"ct-w4a16-{kind}", compressed_tensors("pack-quantized", num_bits=4, **grouped)
            yield f"ct-w8a16-{kind}", compressed_tensors("pack-quantized", num_bits=8, **grouped)
    yield "fp8-blocks-128", fp8((128, 128))
    yield "bitsandbytes-fp4-nested", bitsandbytes_4bit("fp4", nested=True)


# Groups of 16, which the kernels fill up to 32, and blocks smaller than any checkpoint's.
SMALL = {"gptq-4bit-16", "fp8-blocks", "fp8-odd-blocks"}
VARIANTS = {name: form for name, form in FORMATS.items() if name not in SMALL} | dict(formats())
ROUNDED_BITS = {
    "int4": 4 + (16 + 8) / 32,
    "int8": 8 + 16 / 32,
    "eetq": 8,
    "bitsandbytes": 8,
    "fp8": 8,
    "bitsandbytes-nf4": 4 + 32 / 64,
    "bitsandbytes-fp4": 4 + 32 / 64,
}


def bits_of(weight: LinearWeight) -> float:
    return weight.nbytes * 8 / (OUTPUTS * INPUTS)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param]


def matrix() -> torch.Tensor:
    return torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=VARIANTS)
def stored(request: pytest.FixtureRequest) -> tuple[Format, DictWeights, torch.Tensor]:
    """A format, a layer in it, and what that stands for."""
    form = VARIANTS[request.param]
    tensors, exact = form.write(matrix())
    return form, DictWeights({f"{NAME}.{key}": tensor for key, tensor in tensors.items()}), exact


def test_checkpoints(stored: tuple[Format, DictWeights, torch.Tensor], target: Target) -> None:
    form, weights, exact = stored
    scheme = open_scheme({"quantization_config": form.config}, target, None)
    weight = scheme.load(weights, [NAME], WHOLE)
    order = 32 / OUTPUTS if form.config.get("desc_act") else 0  # GPTQ's g_idx
    assert bits_of(weight) <= 1.05 * (form.bits_per_weight + order)
    x = torch.randn(3, INPUTS, generator=torch.Generator().manual_seed(1))
    limit = 1e-3 if target.exact_activations else 0.02  # float16 scales; int8 activations
    assert error(weight.apply(x, None, None), x @ exact.T) < limit


def test_mxfp4(target: Target) -> None:
    blocks, scales = random_experts(1, OUTPUTS, INPUTS)
    weights = DictWeights({f"{NAME}.blocks": blocks[0], f"{NAME}.scales": scales[0]})
    scheme = open_scheme({"quantization_config": {"quant_method": "mxfp4"}}, target, None)
    assert bits_of(scheme.load(weights, [NAME], WHOLE)) <= 1.05 * (4 + 8 / 32)


@pytest.mark.parametrize("quantize", ON_LOAD)
def test_floats_quantized_while_loading(quantize: str, target: Target) -> None:
    weights = DictWeights({f"{NAME}.weight": matrix()})
    scheme = open_scheme({}, target, quantize)
    assert bits_of(scheme.load(weights, [NAME], WHOLE)) <= 1.05 * ROUNDED_BITS[quantize]


class Blocks(DictWeights):
    """One matrix of a GGUF file."""

    def __init__(self, name: str) -> None:
        super().__init__({})
        self.form, self.type = BLOCK_FORMATS[name], GGMLType[name]
        self.data = torch.from_numpy(random_blocks(name, OUTPUTS, INPUTS))

    def raw(self, name: str) -> RawTensor:  # type: ignore[override]
        return RawTensor(self.type, self.data, (OUTPUTS, INPUTS))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_gguf_blocks(name: str) -> None:
    weights = Blocks(name)
    weight = Unquantized({}, TARGETS["int8 activations"]).load(weights, [NAME], WHOLE)
    assert weight.nbytes <= 1.05 * weights.data.nbytes
