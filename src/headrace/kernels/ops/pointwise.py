"""Ops whose rows need little arithmetic: rows of tables, norms, activation functions, copies."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from headrace.kernels.ops.op import Abilities, Op, check_optional
from headrace.kernels.tensors import (
    ACTIVATION_KINDS,
    GATE_KINDS,
    GROUP_SIZE,
    NORM_KINDS,
    Activation,
    ActivationKind,
    GateKind,
    NormKind,
    PackedWeight,
    check,
    check_activation,
    check_choice,
    check_equal,
    check_multiple,
    check_strided,
)


@dataclass(frozen=True, slots=True)
class Embedding(Op):
    """out[r] = table[ids[r] - first_id] * scale, or added to out. ids [T] int32, out [T, H].

    The table may hold a part of the vocabulary, from `first_id` on; the others' rows are zero.
    """

    ids: Tensor
    table: PackedWeight
    out: Tensor
    _: KW_ONLY
    scale: float = 1.0
    first_id: int = 0
    vocab_size: int | None = None
    """None: that of the table."""
    accumulate: bool = False

    def check(self, kernels: Abilities) -> int:
        check(self.out, "out", torch.float32, None, self.table.in_features)
        num_rows = len(self.out)
        check(self.ids, "ids", torch.int32, num_rows)
        last = self.first_id + self.table.out_features
        if self.first_id < 0 or last > (self.vocab_size or self.table.out_features):
            raise ValueError("table: reaches beyond the vocabulary")
        return num_rows


@dataclass(frozen=True, slots=True)
class Norm(Op):
    """out[r] = norm(x[index[r]]) * weight + bias (index None: x[r]), or added to out.

    x [X, H], weight and bias [H], index [R] int32, out [R, H] quantized or float32. Rows of x
    and of a float32 out may be strided; out may be x. Only float32 accumulates.
    """

    x: Tensor
    weight: Tensor
    out: Activation
    _: KW_ONLY
    eps: float
    kind: NormKind = "rms"
    bias: Tensor | None = None
    index: Tensor | None = None
    accumulate: bool = False

    def check(self, kernels: Abilities) -> int:
        check_choice(self.kind, "norm kind", NORM_KINDS)
        num_rows, features = check_activation(self.out, "out", is_strided=True)
        if self.accumulate and not isinstance(self.out, Tensor):
            raise ValueError("out: quantized activations cannot accumulate")
        check_strided(self.x, "x", num_rows if self.index is None else None, features)
        check(self.weight, "weight", torch.float32, features)
        check_optional(self.bias, "bias", torch.float32, features)
        check_optional(self.index, "index", torch.int32, num_rows)
        return num_rows


@dataclass(frozen=True, slots=True)
class Gate(Op):
    """out[r][f] = act(x[r][f]) * x[r][F + f]. x [T, 2F], out [T, F], F a multiple of 32."""

    x: Tensor
    out: Activation
    _: KW_ONLY
    kind: GateKind

    def check(self, kernels: Abilities) -> int:
        check(self.x, "x", torch.float32, None, None)
        check_gate(self.kind, self.out, *self.x.shape)
        return len(self.x)


@dataclass(frozen=True, slots=True)
class Activate(Op):
    """out = act(x). x and out [T, F], F a multiple of 32."""

    x: Tensor
    out: Activation
    _: KW_ONLY
    kind: ActivationKind

    def check(self, kernels: Abilities) -> int:
        check_choice(self.kind, "activation kind", ACTIVATION_KINDS)
        num_rows, features = _check_groups(self.out)
        check(self.x, "x", torch.float32, num_rows, features)
        return num_rows


@dataclass(frozen=True, slots=True)
class SoftCap(Op):
    """x = cap * tanh(x / cap), in place. x [R, F]."""

    x: Tensor
    _: KW_ONLY
    cap: float

    def check(self, kernels: Abilities) -> int:
        check(self.x, "x", torch.float32, None, None)
        if self.cap <= 0:
            raise ValueError("cap: must be positive")
        return len(self.x)


@dataclass(frozen=True, slots=True)
class Quantize(Op):
    """out = x, rounded as `out` holds it. x and out [T, F], F a multiple of 32."""

    x: Tensor
    out: Activation

    def check(self, kernels: Abilities) -> int:
        num_rows, features = _check_groups(self.out)
        check(self.x, "x", torch.float32, num_rows, features)
        return num_rows


@dataclass(frozen=True, slots=True)
class Permute(Op):
    """out[r][k] = x[r][index[k]], 0 where the index is -1.

    x [T, F], index [K] int32, out [T, K], K a multiple of 32.
    """

    x: Tensor
    index: Tensor
    out: Activation

    def check(self, kernels: Abilities) -> int:
        num_rows, features = _check_groups(self.out)
        check(self.x, "x", torch.float32, num_rows, None)
        check(self.index, "index", torch.int32, features)
        if not -1 <= int(self.index.min()) <= int(self.index.max()) < self.x.shape[1]:
            raise ValueError(f"index: outside -1..{self.x.shape[1] - 1}")
        return num_rows


@dataclass(frozen=True, slots=True)
class MoveRows(Op):
    """x[r] = x[index[r]]: rows move up, in order. x [T, any], whose rows may be strided, index [T]
    int32, ascending."""

    x: Tensor
    index: Tensor

    def check(self, kernels: Abilities) -> int:
        check_strided(self.x, "x", None, None)
        check(self.index, "index", torch.int32, len(self.x))
        return len(self.x)


def check_gate(kind: GateKind, out: Activation, num_rows: int, features: int) -> None:
    """Raise ValueError unless `out` takes gate times up, which together are so many features."""
    check_choice(kind, "gate kind", GATE_KINDS)
    check_multiple("gate and up together", features, 2 * GROUP_SIZE)
    out_rows, out_features = check_activation(out, "out")
    check_equal("out: rows", out_rows, num_rows)
    check_equal("out: features", out_features, features // 2)


def _check_groups(out: Activation) -> tuple[int, int]:
    num_rows, features = check_activation(out, "out")
    check_multiple("out: features", features, GROUP_SIZE)
    return num_rows, features
