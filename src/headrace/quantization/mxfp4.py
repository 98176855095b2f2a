"""MXFP4 (OCP Microscaling Formats 1.0): 4-bit floats, each 32 of a row with a power of two.

GPT-OSS keeps its experts so.
"""

import torch

from headrace.errors import CheckpointError
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.none import Unquantized
from headrace.quantization.place import Matrix
from headrace.quantization.tensors import read
from headrace.weights.base import Weights

GROUP_SIZE = 32
NAN = 255


class MXFP4(Unquantized):
    """Tensors per layer: blocks [out, in / 32, 16] uint8, two codes a byte, the lower one first,
    and scales [out, in / 32] uint8; other layers have a weight."""

    def read(self, weights: Weights, name: str) -> Matrix:
        if not weights.has(f"{name}.blocks"):
            return super().read(weights, name)
        return read_blocks(weights, name)


def read_blocks(weights: Weights, name: str) -> QuantizedMatrix:
    """The layer `name`, [out, in]. Raises CheckpointError."""
    blocks = read(weights, f"{name}.blocks", (torch.uint8,), (None, None, GROUP_SIZE // 2))
    scales = read(weights, f"{name}.scales", (torch.uint8,), blocks.shape[:2])
    if bool((scales == NAN).any()):
        raise CheckpointError(f"tensor {name}.scales: expected powers of two, found NaN")
    codes = torch.stack((blocks & 0x0F, blocks >> 4), dim=-1).flatten(1)
    return QuantizedMatrix(
        codes=codes, scales=scales.view(torch.float8_e8m0fnu), bits=4, element="mxfp4"
    )
