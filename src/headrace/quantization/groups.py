"""Quantized matrices in the layout of the CPU kernels: groups of whole 32 columns, in order."""

from collections.abc import Sequence
from dataclasses import replace
from math import gcd

import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels import Kernels
from headrace.kernels.tensors import (
    GROUP_SIZE,
    LAYOUTS,
    ZERO_POINTS,
    Scaling,
    WeightKind,
    are_zero_points,
)
from headrace.quantization.matrix import QuantizedMatrix
from headrace.quantization.packed import PackedLinear, Permutation
from headrace.quantization.rounding import round_integers

FLOAT8_GROUP_SIZE = 64
"""Of E4M3 weights rounded to integers: adds a fifth of the error that E4M3 itself has, and 3 % to
its size."""
INTEGERS: dict[int, WeightKind] = {2: "int2", 3: "int3", 4: "int4"}
"""Kinds by bits; other integers take 8."""


def pack_matrices(
    kernels: Kernels, matrices: Sequence[QuantizedMatrix], *, exact: bool
) -> PackedLinear:
    """Matrices of one layout (`place.layout_of`), fused along their outputs.

    8-bit floats that are to meet int8 activations become integers. Raises ValueError for scales
    that float16 cannot hold.
    """
    if matrices[0].element == "float8" and not exact:
        matrices = [
            round_integers(matrix.dequantize(), 8, FLOAT8_GROUP_SIZE) for matrix in matrices
        ]
    ordered = [order_columns(matrix) for matrix in matrices]
    parts, permutation = [matrix for matrix, _ in ordered], ordered[0][1]
    kind = _kind(parts[0])
    scaling = _scaling(parts, kind)
    packed = kernels.empty_weight(
        kind,
        sum(part.shape[0] for part in parts),
        parts[0].shape[1],
        group_size=parts[0].group_size,
        scaling=scaling,
    )
    first = 0
    for part in parts:
        quants, offsets = _quants(part, kind, scaling)
        kernels.pack_groups(packed, first, quants, part.scales.float().contiguous(), offsets)
        first += len(quants)
    return PackedLinear(kernels, [packed], exact=exact, permutation=permutation)


def _kind(matrix: QuantizedMatrix) -> WeightKind:
    if matrix.element != "integer":
        return matrix.element
    return INTEGERS.get(matrix.bits, "int8")


def _scaling(parts: Sequence[QuantizedMatrix], kind: WeightKind) -> Scaling:
    """With zero points if they can be held exactly, else with minima."""
    zero_points = [_zero_points(part, kind) for part in parts]
    if zero_points[0] is None:
        return LAYOUTS[kind][0]
    can_hold = all(points is not None and are_zero_points(points, kind) for points in zero_points)
    return ZERO_POINTS[kind].scaling if can_hold else "minimum"


def _shift(matrix: QuantizedMatrix, kind: WeightKind) -> int:
    """What codes move by, so that 8 bits have the middle in the middle: minima are the values of
    quant 0 or 128, and small."""
    return 128 - 2 ** (matrix.bits - 1) if kind == "int8" else 0


def _zero_points(matrix: QuantizedMatrix, kind: WeightKind) -> Tensor | None:
    """[out, groups] float32, of codes moved by `_shift`."""
    if matrix.zero_points is None:
        return None
    return (matrix.zero_points.float() + _shift(matrix, kind)).contiguous()


def _quants(
    matrix: QuantizedMatrix, kind: WeightKind, scaling: Scaling
) -> tuple[Tensor, Tensor | None]:
    """Quants [out, in] uint8 and offsets [out, groups] as `Kernels.pack_groups` takes them."""
    quants = (matrix.codes + _shift(matrix, kind)).contiguous()
    zero_points = _zero_points(matrix, kind)
    if zero_points is None or scaling != "minimum":
        return quants, zero_points
    return quants, -zero_points * matrix.scales.float()


def order_columns(matrix: QuantizedMatrix) -> tuple[QuantizedMatrix, Permutation | None]:
    """The matrix with its columns in the order of their groups, each group whole 32 columns.

    Where groups have other sizes, columns are added that read nothing.
    """
    index = matrix.group_index
    if index is None:
        if matrix.group_size % GROUP_SIZE == 0:
            return matrix, None
        index = torch.arange(matrix.shape[1]) // matrix.group_size
    sizes = torch.bincount(index, minlength=matrix.scales.shape[1])
    group_size = gcd(*sizes.tolist())
    if group_size % GROUP_SIZE:
        group_size = GROUP_SIZE
    columns, groups = [], []
    order = torch.argsort(index, stable=True)
    for group, members in enumerate(order.split(sizes.tolist())):
        count = -(-len(members) // group_size)
        padding = count * group_size - len(members)
        columns.append(functional.pad(members, (0, padding), value=-1))
        groups += [group] * count
    permutation = torch.cat(columns)
    ordered = replace(
        matrix,
        codes=matrix.codes[:, permutation.clamp(min=0)],
        scales=matrix.scales[:, groups],
        zero_points=None if matrix.zero_points is None else matrix.zero_points[:, groups],
        group_index=None,
    )
    return ordered, Permutation(permutation.int(), matrix.shape[1])
