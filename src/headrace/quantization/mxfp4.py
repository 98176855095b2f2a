"""MXFP4 (OCP Microscaling Formats 1.0): 4-bit floats, each 32 of a row with a power of two.

GPT-OSS keeps its experts so. They are unpacked while loading, to 16 bits, which hold them exactly.
"""

import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.quantization.none import Unquantized
from headrace.quantization.place import Matrix
from headrace.weights.base import Weights

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = torch.tensor([*MAGNITUDES, *(-value for value in MAGNITUDES)])
"""Of codes 0 to 15: sign, two bits of exponent, one of mantissa (E2M1)."""
GROUP_SIZE = 32
SCALE_BIAS = 127


class MXFP4(Unquantized):
    """Tensors per layer: blocks [out, in / 32, 16] uint8, two codes a byte, the lower one first,
    and scales [out, in / 32] uint8; other layers have a weight."""

    def read(self, weights: Weights, name: str) -> Matrix:
        if not weights.has(f"{name}.blocks"):
            return super().read(weights, name)
        blocks, scales = (weights.get(f"{name}.{kind}") for kind in ("blocks", "scales"))
        is_right_type = {blocks.dtype, scales.dtype} == {torch.uint8}
        if not is_right_type or blocks.shape != (*scales.shape, GROUP_SIZE // 2):
            raise CheckpointError(
                f"tensor {name}.blocks: {list(blocks.shape)} {blocks.dtype} does not fit "
                f"scales {list(scales.shape)} {scales.dtype}"
            )
        return unpack(blocks, scales)


def unpack(blocks: Tensor, scales: Tensor) -> Tensor:
    """blocks [out, groups, 16] and scales [out, groups] to a matrix [out, groups * 32] bfloat16."""
    codes = torch.stack((blocks & 0x0F, blocks >> 4), dim=-1).flatten(-2)
    exponents = scales.int().unsqueeze(-1) - SCALE_BIAS
    return torch.ldexp(VALUES[codes.int()], exponents).flatten(-2).bfloat16()
