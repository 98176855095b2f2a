"""AWQ (Lin et al. 2023) in AutoAWQ's GEMM layout: integers of 4 bits, packed along the outputs."""

from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from headrace.quantization.base import Target
from headrace.quantization.bits import unpack_words
from headrace.quantization.config import GroupSize, read_config
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.place import Matrix, MatrixScheme, read_floats
from headrace.quantization.tensors import count_groups, read, read_scales
from headrace.weights.base import Weights

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which field of a word, lowest bits first, holds output 0, 1, ... of its eight."""


class AWQConfig(msgspec.Struct, kw_only=True):
    """In the normal form of `checkpoint.quantization_config`."""

    bits: Literal[4]
    group_size: GroupSize
    version: Literal["gemm", "GEMM"] = "gemm"


class AWQ(MatrixScheme):
    """Tensors per layer: qweight [in, out / 8], qzeros [groups, out / 8], scales [groups, out]."""

    def __init__(self, config: dict[str, Any], target: Target) -> None:
        super().__init__(config, target)
        self.config = read_config(AWQConfig, config)

    def read(self, weights: Weights, name: str) -> Matrix:
        if not weights.has(f"{name}.qweight") and weights.has(f"{name}.weight"):
            return read_floats(weights, f"{name}.weight")
        codes = self.fields(weights, f"{name}.qweight", (None, None))
        out_features, in_features = codes.shape
        num_groups = count_groups(f"{name}.qweight", in_features, self.config.group_size)
        zero_points = self.fields(weights, f"{name}.qzeros", (num_groups, out_features // 8))
        scales = read_scales(weights, f"{name}.scales", (num_groups, out_features)).t()
        is_symmetric = bool((zero_points == 8).all())
        return QuantizedMatrix(
            codes=codes, scales=scales, bits=4, zero_points=None if is_symmetric else zero_points
        )

    def fields(self, weights: Weights, name: str, shape: tuple[int | None, int | None]) -> Tensor:
        """A tensor [n, out / 8] int32 as [out, n] uint8."""
        words = read(weights, name, (torch.int32,), shape)
        fields = unpack_words(words.t().contiguous(), 4)
        return fields.unflatten(0, (-1, 8))[:, PLACES].flatten(0, 1)
