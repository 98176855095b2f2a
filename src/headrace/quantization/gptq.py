"""GPTQ (Frantar et al. 2022) as AutoGPTQ and GPTQModel store it: integers of 2, 3, 4 or 8 bits.

Packed along the inputs into 32-bit words, with zero points along the outputs; `g_idx` gives each
input's group where they were quantized by activation order.
"""

from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from headrace.errors import CheckpointError, StartupError
from headrace.quantization.base import Target
from headrace.quantization.bits import unpack_words
from headrace.quantization.config import GroupSize, read_config
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.place import Matrix, MatrixScheme, read_floats
from headrace.quantization.tensors import count_groups, read, read_group_index, read_scales
from headrace.weights.base import Weights


class GPTQConfig(msgspec.Struct, kw_only=True):
    """In the normal form of `checkpoint.quantization_config`."""

    bits: Literal[2, 3, 4, 8]
    group_size: GroupSize
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"
    """Version 1 stores zero points less one."""
    dynamic: dict[str, Any] | None = None


class GPTQ(MatrixScheme):
    """Tensors per layer: qweight [in * bits / 32, out], qzeros [groups, out * bits / 32], scales
    [groups, out], and often g_idx [in]."""

    def __init__(self, config: dict[str, Any], target: Target) -> None:
        super().__init__(config, target)
        self.config = read_config(GPTQConfig, config)
        if any(not pattern.startswith("-") for pattern in self.config.dynamic or {}):
            raise StartupError(
                "quantization_config: dynamic gives some layers other settings, which is not "
                "supported; only layers left out (-:pattern) are"
            )

    def read(self, weights: Weights, name: str) -> Matrix:
        if not weights.has(f"{name}.qweight") and weights.has(f"{name}.weight"):
            return read_floats(weights, f"{name}.weight")
        codes = self.codes(weights, name)
        out_features, in_features = codes.shape
        num_groups = count_groups(f"{name}.qweight", in_features, self.config.group_size)
        scales = read_scales(weights, f"{name}.scales", (num_groups, out_features)).t()
        return QuantizedMatrix(
            codes=codes,
            scales=scales,
            bits=self.config.bits,
            zero_points=self.zero_points(weights, name, num_groups, out_features),
            group_index=self.group_index(weights, name, in_features, num_groups),
        )

    def codes(self, weights: Weights, name: str) -> Tensor:
        """[out, in] uint8."""
        words = read(weights, f"{name}.qweight", (torch.int32,), (None, None))
        if len(words) % self.config.bits:
            raise CheckpointError(
                f"tensor {name}.qweight: expected rows in multiples of {self.config.bits} "
                f"({self.config.bits} bits, inputs in multiples of 32), found {len(words)}"
            )
        return unpack_words(words, self.config.bits).t().contiguous()

    def zero_points(
        self, weights: Weights, name: str, num_groups: int, out_features: int
    ) -> Tensor | None:
        """[out, groups] uint8; None where all are in the middle (symmetric quantization)."""
        bits = self.config.bits
        shape = (num_groups, out_features * bits // 32)
        words = read(weights, f"{name}.qzeros", (torch.int32,), shape)
        zero_points = unpack_words(words.t(), bits)
        if self.config.checkpoint_format == "gptq":
            zero_points = (zero_points + 1) & ((1 << bits) - 1)
        return None if bool((zero_points == 1 << (bits - 1)).all()) else zero_points

    def group_index(
        self, weights: Weights, name: str, in_features: int, num_groups: int
    ) -> Tensor | None:
        """[in]; None where the groups are in order."""
        if not weights.has(f"{name}.g_idx") or num_groups == 1:
            return None
        index = read_group_index(weights, f"{name}.g_idx", in_features, num_groups)
        in_order = torch.arange(in_features, dtype=torch.int32) // (in_features // num_groups)
        return None if torch.equal(index, in_order) else index
