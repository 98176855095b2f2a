"""FP8 checkpoints: a scale for each tensor (AutoFP8), output (FBGEMM) or block (DeepSeek, Qwen)."""

from typing import Any, Literal

import msgspec

from headrace.quantization.base import Target
from headrace.quantization.config import BlockSide, read_config
from headrace.quantization.float8 import is_float8, read_float8
from headrace.quantization.place import Matrix, MatrixScheme, read_floats
from headrace.weights.base import Weights


class FP8Config(msgspec.Struct, kw_only=True):
    """Of `quant_method` fp8 and fbgemm_fp8. How activations would be rounded does not matter here:
    they keep all their bits."""

    weight_block_size: tuple[BlockSide, BlockSide] | None = None
    fmt: Literal["e4m3"] = "e4m3"


class FP8(MatrixScheme):
    """Tensors per layer: weight [out, in] float8, and weight_scale_inv (which multiplies all the
    same) for blocks, else weight_scale."""

    def __init__(self, config: dict[str, Any], target: Target) -> None:
        super().__init__(config, target)
        self.block = read_config(FP8Config, config).weight_block_size

    def read(self, weights: Weights, name: str) -> Matrix:
        if not is_float8(weights, f"{name}.weight"):
            return read_floats(weights, f"{name}.weight")
        is_inverse = weights.has(f"{name}.weight_scale_inv")
        scale = "weight_scale_inv" if is_inverse or self.block else "weight_scale"
        return read_float8(weights, name, scale, self.block)
