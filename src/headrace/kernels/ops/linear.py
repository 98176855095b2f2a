"""Products with packed weights."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from headrace.kernels.ops.op import Abilities, Op, check_optional
from headrace.kernels.ops.pointwise import check_gate
from headrace.kernels.tensors import (
    Activation,
    GateKind,
    PackedWeight,
    QuantizedActivation,
    SplitActivation,
    check,
    check_activation,
    check_equal,
    check_multiple,
    check_strided,
)


@dataclass(frozen=True, slots=True)
class Linear(Op):
    """out = x @ weight.T + bias, or with `accumulate` added to out (the residual stream).

    x [T, K] in one of the weight's `input_dtypes`; out [T, N], maybe a part of wider rows;
    bias [N].
    """

    x: Activation
    weight: PackedWeight
    out: Tensor
    _: KW_ONLY
    bias: Tensor | None = None
    accumulate: bool = False

    def check(self, kernels: Abilities) -> int:
        num_rows = check_product(self.x, self.weight, kernels)
        check_strided(self.out, "out", num_rows, self.weight.out_features)
        check_optional(self.bias, "bias", torch.float32, self.weight.out_features)
        return num_rows


@dataclass(frozen=True, slots=True)
class LinearBlocks(Op):
    """The first K columns of each block of x times that block's weight, then its other columns.

    x [T, B * X] and out [T, B * (N + X - K)] in as many blocks as there are weights [N, K].
    """

    x: Tensor
    weights: Sequence[PackedWeight]
    out: Tensor

    def check(self, kernels: Abilities) -> int:
        count, first = len(self.weights), self.weights[0]
        num_outputs, num_inputs = first.out_features, first.in_features
        check(self.x, "x", torch.float32, None, None)
        num_rows, columns = self.x.shape
        check_multiple("x: columns", columns, count)
        if columns // count < num_inputs:
            raise ValueError("x: blocks are narrower than the weights' inputs")
        for weight in self.weights:
            check_equal("weights: outputs", weight.out_features, num_outputs)
            check_equal("weights: inputs", weight.in_features, num_inputs)
        width = columns + (num_outputs - num_inputs) * count
        check(self.out, "out", torch.float32, num_rows, width)
        return num_rows


@dataclass(frozen=True, slots=True)
class LinearGate(Op):
    """out = act(x @ gate.T) * (x @ up.T), gate and up being the halves of the weight's rows
    (clamped_swiglu is a function of both: `kernels.twins.pointwise.gated`).

    x [T, K], weight [2F, K], out [T, F], F a multiple of 32.
    """

    x: Activation
    weight: PackedWeight
    out: Activation
    _: KW_ONLY
    kind: GateKind

    def check(self, kernels: Abilities) -> int:
        num_rows = check_product(self.x, self.weight, kernels)
        check_gate(self.kind, self.out, num_rows, self.weight.out_features)
        return num_rows


def check_product(x: Activation, weight: PackedWeight, kernels: Abilities) -> int:
    """Return the rows of x; raise ValueError if the weight cannot multiply it."""
    num_rows, features = check_activation(x, "x")
    check_equal("x: features", features, weight.in_features)
    check_input(x, weight, kernels)
    return num_rows


def check_input(x: Activation, weight: PackedWeight, kernels: Abilities) -> None:
    """Raise ValueError if the weight does not read activations in such a dtype."""
    for part in x.parts if isinstance(x, SplitActivation) else (x,):
        if isinstance(part, QuantizedActivation) and part.dtype not in kernels.input_dtypes(weight):
            raise ValueError(f"x: this {weight.kind} weight takes no {part.dtype} activations")
