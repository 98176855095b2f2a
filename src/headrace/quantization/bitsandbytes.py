"""Checkpoints saved by bitsandbytes: NF4 and FP4 (QLoRA), scales possibly quantized too, and
LLM.int8."""

from math import gcd
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor

from headrace.errors import CheckpointError, StartupError
from headrace.kernels.codebooks import CODEBOOKS
from headrace.quantization.base import Target
from headrace.quantization.config import read_config
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.place import Matrix, MatrixScheme, read_floats
from headrace.quantization.tensors import read, read_scales
from headrace.weights.base import Weights

Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
FourBits = Literal["nf4", "fp4"]


class BitsAndBytesConfig(msgspec.Struct, kw_only=True):
    """The quantization_config."""

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: FourBits = "fp4"


class QuantState(msgspec.Struct, kw_only=True):
    """What stands as JSON beside a weight of 4 bits."""

    blocksize: Size
    shape: tuple[Size, Size]
    nested_blocksize: Size | None = None
    nested_offset: float = 0.0


class BitsAndBytes(MatrixScheme):
    """Tensors per layer of 4 bits: weight [out * in / 2, 1] uint8, high half first; weight.absmax,
    weight.quant_map, weight.quant_state.bitsandbytes__nf4; where scales are quantized too,
    weight.nested_absmax and weight.nested_quant_map. Of 8 bits: weight [out, in] int8, SCB [out].
    """

    def __init__(self, config: dict[str, Any], target: Target) -> None:
        super().__init__(config, target)
        settings = read_config(BitsAndBytesConfig, config)
        if settings.load_in_4bit == settings.load_in_8bit:
            raise StartupError("quantization_config: expected load_in_4bit or load_in_8bit")
        self.element: FourBits | None = (
            settings.bnb_4bit_quant_type if settings.load_in_4bit else None
        )

    def read(self, weights: Weights, name: str) -> Matrix:
        if self.element is not None and weights.has(f"{name}.weight.absmax"):
            return read_four_bits(weights, f"{name}.weight", self.element)
        if self.element is None and weights.has(f"{name}.SCB"):
            return read_eight_bits(weights, name)
        return read_floats(weights, f"{name}.weight")


def read_eight_bits(weights: Weights, name: str) -> QuantizedMatrix:
    """w = q * SCB / 127."""
    values = read(weights, f"{name}.weight", (torch.int8,), (None, None))
    largest = read_scales(weights, f"{name}.SCB", (len(values),))
    codes = values.view(torch.uint8) ^ 128
    return QuantizedMatrix(codes=codes, scales=largest.unsqueeze(1) / 127, bits=8)


def read_four_bits(weights: Weights, name: str, element: FourBits) -> QuantizedMatrix:
    """Codes of blocks that run through the matrix in the order of memory, whatever its rows."""
    state = _quant_state(weights, f"{name}.quant_state.bitsandbytes__{element}")
    out_features, in_features = state.shape
    stored = weights.get(name).flatten().view(torch.uint8)
    if len(stored) * 2 != out_features * in_features:
        raise CheckpointError(
            f"tensor {name}: expected {out_features * in_features} values of 4 bits for shape "
            f"{list(state.shape)}, found {len(stored) * 2}"
        )
    _check_codebook(weights, f"{name}.quant_map", element)
    codes = torch.stack((stored >> 4, stored & 15), dim=1).view(state.shape)
    num_blocks = -(-codes.numel() // state.blocksize)
    largest = _largest(weights, name, num_blocks, state)
    # Where a block ends within a row, groups are as small as to lie in one block each.
    starts = torch.arange(0, codes.numel(), gcd(in_features, state.blocksize))
    scales = largest[starts // state.blocksize].view(out_features, -1)
    return QuantizedMatrix(codes=codes, scales=scales, bits=4, element=element)


def _quant_state(weights: Weights, name: str) -> QuantState:
    text = read(weights, name, (torch.uint8,), (None,))
    try:
        return msgspec.json.decode(text.numpy().tobytes(), type=QuantState)
    except (msgspec.DecodeError, ValueError) as error:
        raise CheckpointError(
            f"tensor {name}: expected JSON with blocksize and shape, found other: {error}"
        ) from None


def _check_codebook(weights: Weights, name: str, element: FourBits) -> None:
    numbers = read_scales(weights, name, (16,))
    if not torch.allclose(numbers.float(), CODEBOOKS[element], atol=1e-3):
        raise CheckpointError(f"tensor {name}: expected the numbers of {element}, found others")


def _largest(weights: Weights, name: str, num_blocks: int, state: QuantState) -> Tensor:
    """The largest magnitude of each block, [blocks]."""
    if state.nested_blocksize is None:
        return read_scales(weights, f"{name}.absmax", (num_blocks,))
    codes = read(weights, f"{name}.absmax", (torch.uint8,), (num_blocks,))
    num_scales = -(-num_blocks // state.nested_blocksize)
    scales = read_scales(weights, f"{name}.nested_absmax", (num_scales,)).float()
    numbers = read_scales(weights, f"{name}.nested_quant_map", (256,)).float()
    scales = scales.repeat_interleave(state.nested_blocksize)[:num_blocks]
    # Rounded to 8 bits in the file: 16 lose nothing that matters, and 32 would not be the format's.
    return (numbers[codes.int()] * scales + state.nested_offset).half()
