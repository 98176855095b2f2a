"""compressed-tensors, the format of LLM Compressor: integers packed or not, and 8-bit floats.

Which layers are quantized, and how, stands in the config's groups of targets. What it says of
activations is not needed: they are rounded in groups of 32 or not at all.
"""

import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from headrace.errors import CheckpointError, StartupError
from headrace.quantization.base import Target
from headrace.quantization.bits import unpack_words
from headrace.quantization.config import BlockSide, GroupSize, read_config
from headrace.quantization.float8 import read_float8
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.place import Matrix, MatrixScheme, read_floats
from headrace.quantization.tensors import count_groups, read, read_group_index, read_scales
from headrace.weights.base import Weights

Format = Literal["dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized"]


class WeightArguments(msgspec.Struct, kw_only=True):
    """How the weights of a group of layers are quantized."""

    num_bits: Literal[4, 8]
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: Literal["tensor", "channel", "group", "block"] | None = None
    group_size: GroupSize | None = None
    block_structure: tuple[BlockSide, BlockSide] | None = None


class Group(msgspec.Struct, kw_only=True):
    """Layers that are quantized alike."""

    targets: list[str]
    weights: WeightArguments | None = None
    format: Format | None = None


class CompressedTensorsConfig(msgspec.Struct, kw_only=True):
    """The quantization_config."""

    config_groups: dict[str, Group]
    format: Format | Literal["mixed-precision"] = "dense"
    ignore: list[str] = []
    quantization_status: Literal["compressed", "frozen"] = "compressed"
    sparsity_config: dict[str, Any] | None = None


class CompressedTensors(MatrixScheme):
    """Tensors per layer: weight_packed [out, in * bits / 32] or weight [out, in]; weight_scale; for
    asymmetric integers weight_zero_point; for activation order weight_g_idx [in]."""

    def __init__(self, config: dict[str, Any], target: Target) -> None:
        super().__init__(config, target)
        self.config = read_config(CompressedTensorsConfig, config)
        if (self.config.sparsity_config or {}).get("format", "dense") != "dense":
            raise StartupError("quantization_config: sparsity_config: sparse weights are not read")
        for group in self.config.config_groups.values():
            arguments = group.weights
            if arguments and arguments.type == "float" and arguments.num_bits != 8:
                raise StartupError("quantization_config: floats of 4 bits are not read")

    def read(self, weights: Weights, name: str) -> Matrix:
        group = self._group_of(name)
        form = (group.format or self.config.format) if group else "dense"
        if group is None or group.weights is None or form == "dense":
            return read_floats(weights, f"{name}.weight")
        if group.weights.type == "float":
            return read_float8(weights, name, block=group.weights.block_structure)
        is_packed = form == "pack-quantized"
        return _integers(weights, name, group.weights, is_packed=is_packed)

    def _group_of(self, name: str) -> Group | None:
        if _matches(name, self.config.ignore):
            return None
        groups = self.config.config_groups.values()
        return next((group for group in groups if _matches(name, group.targets)), None)


def _matches(name: str, targets: Iterable[str]) -> bool:
    """Whether a target is the layer's name, a pattern for it (re:...) or its class."""
    kind = "Embedding" if name.endswith("embed_tokens") else "Linear"
    for target in targets:
        is_pattern = target.startswith("re:")
        if target in (name, kind) or (is_pattern and re.match(target[3:], name)):
            return True
    return False


def _integers(
    weights: Weights, name: str, arguments: WeightArguments, *, is_packed: bool
) -> QuantizedMatrix:
    bits = arguments.num_bits
    codes = _packed_codes(weights, name, bits) if is_packed else _plain_codes(weights, name, bits)
    out_features, in_features = codes.shape
    num_groups = count_groups(f"{name}.weight_scale", in_features, _group_size(arguments))
    rows = 1 if arguments.strategy == "tensor" else out_features
    sizes = [1] if rows == 1 else [rows, num_groups]
    scales = read_scales(weights, f"{name}.weight_scale", sizes).reshape(rows, num_groups)
    zero_points = None
    if not arguments.symmetric:
        read_zero_points = _packed_zero_points if is_packed else _plain_zero_points
        zero_points = read_zero_points(weights, name, sizes, bits).reshape(rows, num_groups)
        zero_points = zero_points.expand(out_features, num_groups)
    group_index = None
    if weights.has(f"{name}.weight_g_idx"):
        group_index = read_group_index(weights, f"{name}.weight_g_idx", in_features, num_groups)
    return QuantizedMatrix(
        codes=codes,
        scales=scales.expand(out_features, num_groups),
        bits=bits,
        zero_points=zero_points,
        group_index=group_index,
    )


def _group_size(arguments: WeightArguments) -> int:
    return arguments.group_size or -1 if arguments.strategy in ("group", None) else -1


def _packed_codes(weights: Weights, name: str, bits: int) -> Tensor:
    """[out, in] uint8, of words along the inputs. Raises CheckpointError where weight_shape
    contradicts them."""
    words = read(weights, f"{name}.weight_packed", (torch.int32,), (None, None))
    codes = unpack_words(words.t(), bits).t().contiguous()
    shape = read(weights, f"{name}.weight_shape", (torch.int64, torch.int32), (2,)).tolist()
    if shape != list(codes.shape):
        raise CheckpointError(
            f"tensor {name}.weight_shape: expected {list(codes.shape)} as in weight_packed, "
            f"found {shape}"
        )
    return codes


def _packed_zero_points(weights: Weights, name: str, sizes: list[int], bits: int) -> Tensor:
    """Words along the outputs."""
    words_shape = [sizes[0] * bits // 32, *sizes[1:]]
    words = read(weights, f"{name}.weight_zero_point", (torch.int32,), words_shape)
    return unpack_words(words, bits)


def _plain_codes(weights: Weights, name: str, bits: int) -> Tensor:
    """Signed bytes to codes from 0 on. Raises CheckpointError for values out of the bits' range."""
    return _unsigned(read(weights, f"{name}.weight", (torch.int8,), (None, None)), name, bits)


def _plain_zero_points(weights: Weights, name: str, sizes: list[int], bits: int) -> Tensor:
    zero_points = read(weights, f"{name}.weight_zero_point", (torch.int8,), sizes)
    return _unsigned(zero_points, name, bits)


def _unsigned(values: Tensor, name: str, bits: int) -> Tensor:
    middle = 2 ** (bits - 1)
    low, high = int(values.min()), int(values.max())
    if low < -middle or high >= middle:
        raise CheckpointError(
            f"weights of {name}: expected {bits} bits, {-middle} to {middle - 1}, "
            f"found {low} to {high}"
        )
    return (values.view(torch.uint8) + middle) & (2 * middle - 1)
