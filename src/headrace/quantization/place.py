"""From matrices as a checkpoint has them to the layout of the device that will use them."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.kernels import BLOCK_FORMATS, Kernels
from headrace.quantization.base import LinearWeight, Target
from headrace.quantization.compressed import CompressedLinear
from headrace.quantization.dense import DenseWeight
from headrace.quantization.groups import pack_matrices
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.packed import PackedLinear, pack_blocks, pack_floats, stack
from headrace.weights.base import RawTensor, Weights
from headrace.weights.dequantize import dequantize
from headrace.weights.naming import Rows, stored_layer
from headrace.weights.parts import Part

Matrix = Tensor | RawTensor | QuantizedMatrix
"""Of floats, of GGUF blocks, or quantized by some scheme."""

logger = logging.getLogger(__name__)


class MatrixScheme(ABC):
    """A `Scheme` that only says how the matrix of one layer is read."""

    def __init__(self, config: dict[str, Any], target: Target) -> None:
        self.target = target

    @abstractmethod
    def read(self, weights: Weights, name: str) -> Matrix:
        """The matrix [out_features, in_features] of the layer `name`. Raises CheckpointError."""

    def load(self, weights: Weights, names: Sequence[str], parts: Sequence[Part]) -> LinearWeight:
        """See `quantization.base.Scheme`."""
        whole: dict[str, Matrix] = {}
        matrices = [
            cut(self._read_ours(weights, name, whole), part)
            for name, part in zip(names, parts, strict=True)
        ]
        columns = [matrix.shape[-1] for matrix in matrices]
        if len(set(columns)) != 1:
            raise CheckpointError(
                f"matrices to be fused ({', '.join(names)}) read {columns} inputs"
            )
        try:
            return place(matrices, self.target, names)
        except ValueError as error:
            raise CheckpointError(f"weights of {', '.join(names)}: {error}") from None

    def _read_ours(self, weights: Weights, name: str, whole: dict[str, Matrix]) -> Matrix:
        """By our name for the layer; `read` sees the checkpoint's, so that it finds whatever
        tensors belong to it. `whole` has what was read for other parts of the same matrix."""
        stored = stored_layer(weights, name)
        if stored is None:
            return self.read(weights, name)
        if stored.name not in whole:
            whole[stored.name] = self.read(stored.weights, stored.name)
        matrix = whole[stored.name]
        return matrix if stored.rows is None else pick(matrix, stored.rows)


def pick(matrix: Matrix, rows: Rows) -> Matrix:
    """Rows of a matrix, in another order or not all."""
    if isinstance(matrix, Tensor):
        return rows(matrix)
    if isinstance(matrix, RawTensor):
        return matrix.rows(rows)
    return matrix.rows(rows(torch.arange(len(matrix.codes))))


def cut(matrix: Matrix, part: Part) -> Matrix:
    """The share of one rank. Raises CheckpointError as `Slice.of`."""
    if isinstance(matrix, Tensor):
        return part.of(matrix)
    if isinstance(matrix, RawTensor):
        return part.of_blocks(matrix)
    rows, columns = part.rows.of(matrix.shape[0]), part.columns.of(matrix.shape[1])
    return matrix.rows(rows).columns(columns.start, columns.stop)


def read_floats(weights: Weights, name: str) -> Tensor:
    """A matrix that is not quantized. Raises CheckpointError if it is anything else."""
    return check_floats(name, weights.get(name))


def check_floats(name: str, matrix: Tensor) -> Tensor:
    """`matrix` itself; raises as `read_floats`."""
    if matrix.dim() != 2 or not matrix.is_floating_point() or matrix.itemsize == 1:
        raise CheckpointError(
            f"tensor {name}: expected a matrix of floating-point numbers, "
            f"found {list(matrix.shape)} {matrix.dtype}"
        )
    return matrix


def place(matrices: Sequence[Matrix], target: Target, names: Sequence[str]) -> LinearWeight:
    """Matrices that read the same input as one weight. Raises ValueError for numbers that the
    layout cannot hold."""
    if target.kernels is not None:
        return _pack(target.kernels, matrices, target, names)
    quantized = [matrix for matrix in matrices if isinstance(matrix, QuantizedMatrix)]
    if len(quantized) == len(matrices):
        return CompressedLinear(quantized, target.device, target.dtype)
    return DenseWeight(_fuse(matrices, target))


def _fuse(matrices: Sequence[Matrix], target: Target) -> Tensor:
    """Floats on the target; a single matrix that is such already stays where it is."""
    if len(matrices) == 1:
        return to_floats(matrices[0], target.dtype).to(device=target.device, dtype=target.dtype)
    rows = [matrix.shape[0] for matrix in matrices]
    fused = torch.empty(sum(rows), matrices[0].shape[1], dtype=target.dtype, device=target.device)
    for part, matrix in zip(fused.split(rows), matrices, strict=True):
        part.copy_(to_floats(matrix, target.dtype))
    return fused


def to_floats(matrix: Matrix, dtype: torch.dtype = torch.float32) -> Tensor:
    """[out_features, in_features] in the dtype it is stored in, float32 where it is quantized;
    blocks become `dtype`."""
    if isinstance(matrix, Tensor):
        return matrix
    if isinstance(matrix, RawTensor):
        whole = dequantize(matrix.type, matrix.data, dtype).view(len(matrix.data), -1)
        return whole[:, matrix.first : matrix.first + matrix.shape[-1]]
    return matrix.dequantize()


def _pack(
    kernels: Kernels, matrices: Sequence[Matrix], target: Target, names: Sequence[str]
) -> LinearWeight:
    """Neighbours of one layout become one packed weight, the others parts of their own."""
    runs = [list(run) for _, run in groupby(matrices, layout_of)]
    weight = stack([_pack_run(kernels, run, target) for run in runs])
    if weight is not None:
        return weight
    logger.warning("%s: quantized in different orders, kept in 16 bits", ", ".join(names))
    floats = [to_floats(matrix) for matrix in matrices]
    return pack_floats(kernels, floats, torch.float16, exact=target.exact_activations)


def layout_of(matrix: Matrix) -> tuple[object, ...]:
    """Equal for matrices that can be one packed weight."""
    if isinstance(matrix, Tensor):
        return ()
    if isinstance(matrix, RawTensor):
        form = BLOCK_FORMATS[matrix.type.name]
        return form.kind, form.scaling
    order = None if matrix.group_index is None else matrix.group_index.numpy().tobytes()
    has_zero_points = matrix.zero_points is not None
    return matrix.element, matrix.bits, matrix.scales.shape[1], has_zero_points, order


def _pack_run(kernels: Kernels, matrices: Sequence[Matrix], target: Target) -> PackedLinear:
    exact = target.exact_activations
    blocks = [matrix for matrix in matrices if isinstance(matrix, RawTensor)]
    quantized = [matrix for matrix in matrices if isinstance(matrix, QuantizedMatrix)]
    if blocks:
        return pack_blocks(kernels, blocks, exact=exact)
    if quantized:
        return pack_matrices(kernels, quantized, exact=exact)
    floats = [matrix for matrix in matrices if isinstance(matrix, Tensor)]
    return pack_floats(kernels, floats, target.weight_dtype, exact=exact)
