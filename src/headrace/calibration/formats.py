"""Quantized matrices as the tensors and the config that other engines read.

`quantization.gptq` and `quantization.compressed_tensors` are the other way round.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headrace.calibration.recipe import Recipe
from headrace.quantization.bits import pack_words
from headrace.quantization.matrix import QuantizedMatrix

Tensors = dict[str, Tensor]


def gptq_tensors(matrix: QuantizedMatrix) -> Tensors:
    """AutoGPTQ's: packed along the inputs; zero points, less one, along the outputs."""
    zero_points = matrix.zero_points
    if zero_points is None:
        zero_points = torch.full_like(matrix.scales, 2 ** (matrix.bits - 1))
    in_features = matrix.shape[1]
    index = torch.arange(in_features, dtype=torch.int32) // matrix.group_size
    return {
        "qweight": pack_words(matrix.codes.t(), matrix.bits),
        "qzeros": pack_words(zero_points - 1, matrix.bits).t().contiguous(),
        "scales": matrix.scales.half().t().contiguous(),
        "g_idx": index if matrix.group_index is None else matrix.group_index.clone(),
    }


def gptq_config(recipe: Recipe, ignored: Sequence[str]) -> dict[str, Any]:
    """What is not quantized has no qweight, and need not be named."""
    return {
        "quant_method": "gptq",
        "bits": recipe.bits,
        "group_size": recipe.group_size,
        "sym": recipe.is_symmetric,
        "desc_act": recipe.is_act_order,
        "damp_percent": recipe.damping,
        "true_sequential": False,
        "checkpoint_format": "gptq",
    }


def packed_tensors(matrix: QuantizedMatrix) -> Tensors:
    """compressed-tensors' pack-quantized: along the inputs; zero points along the outputs."""
    tensors = {
        "weight_packed": pack_words(matrix.codes.t(), matrix.bits).t().contiguous(),
        "weight_scale": matrix.scales.half(),
        "weight_shape": torch.tensor(matrix.shape),
    }
    if matrix.zero_points is not None:
        tensors["weight_zero_point"] = pack_words(matrix.zero_points, matrix.bits)
    return tensors


def packed_config(recipe: Recipe, ignored: Sequence[str]) -> dict[str, Any]:
    weights = {
        "num_bits": recipe.bits,
        "type": "int",
        "symmetric": recipe.is_symmetric,
        "strategy": "channel" if recipe.group_size == -1 else "group",
        "group_size": None if recipe.group_size == -1 else recipe.group_size,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": list(ignored),
    }


@dataclass(frozen=True)
class Format:
    """How quantized layers are written."""

    tensors: Callable[[QuantizedMatrix], Tensors]
    """Of one layer, by suffix."""
    config: Callable[[Recipe, Sequence[str]], dict[str, Any]]
    """config.json's quantization_config; also given the layers that are left in floats."""


FORMATS: dict[str, Format] = {
    "gptq": Format(gptq_tensors, gptq_config),
    "int4": Format(packed_tensors, packed_config),
}
"""By `Recipe.method`."""
