"""MXFP4 (OCP Microscaling Formats 1.0): 4-bit floats, each 32 of a row with a power of two.

GPT-OSS keeps its experts so.
"""

import logging

import torch

from headrace.errors import CheckpointError
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.none import Unquantized
from headrace.quantization.place import Matrix
from headrace.weights.base import Weights

GROUP_SIZE = 32
SCALE_BIAS = 127
NAN = 255
FLOAT16_EXPONENTS = (-24, 15)
"""Of the powers of two that float16 holds."""

logger = logging.getLogger(__name__)


class MXFP4(Unquantized):
    """Tensors per layer: blocks [out, in / 32, 16] uint8, two codes a byte, the lower one first,
    and scales [out, in / 32] uint8; other layers have a weight."""

    def read(self, weights: Weights, name: str) -> Matrix:
        if not weights.has(f"{name}.blocks"):
            return super().read(weights, name)
        matrix = read_blocks(weights, name)
        if self.target.kernels is not None and not fits_float16(matrix):
            logger.warning("%s: kept in 16 bits, its scales are beyond float16's range", name)
            return matrix.dequantize(torch.bfloat16)
        return matrix


def read_blocks(weights: Weights, name: str) -> QuantizedMatrix:
    """The layer `name`, [out, in]. Raises CheckpointError."""
    blocks, scales = (weights.get(f"{name}.{kind}") for kind in ("blocks", "scales"))
    is_right_type = {blocks.dtype, scales.dtype} == {torch.uint8}
    if not is_right_type or blocks.shape != (*scales.shape, GROUP_SIZE // 2):
        raise CheckpointError(
            f"tensor {name}.blocks: {list(blocks.shape)} {blocks.dtype} does not fit "
            f"scales {list(scales.shape)} {scales.dtype}"
        )
    if bool((scales == NAN).any()):
        raise CheckpointError(f"tensor {name}.scales: expected powers of two, found NaN")
    codes = torch.stack((blocks & 0x0F, blocks >> 4), dim=-1).flatten(1)
    return QuantizedMatrix(
        codes=codes, scales=scales.view(torch.float8_e8m0fnu), bits=4, element="mxfp4"
    )


def fits_float16(matrix: QuantizedMatrix) -> bool:
    """Whether all scales do, but those of groups of zeros, which need none."""
    exponents = matrix.scales.view(torch.uint8).int() - SCALE_BIAS
    low, high = FLOAT16_EXPONENTS
    is_zero = (matrix.codes & 7 == 0).unflatten(1, (-1, GROUP_SIZE)).all(-1)
    return bool((is_zero | (exponents >= low) & (exponents <= high)).all())
