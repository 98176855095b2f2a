"""The twins of `kernels.ops.pointwise`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels.ops import (
    Activate,
    Embedding,
    Gate,
    MoveRows,
    Norm,
    Permute,
    Quantize,
    SoftCap,
)
from headrace.kernels.tensors import ActivationKind, GateKind
from headrace.kernels.twins.values import check_range, put, values_of

ROWS_DO_NOT_MOVE_UP = "a row is to move down, or comes from beyond the others"

ACTIVATIONS: dict[ActivationKind, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


def gated(kind: GateKind, gate: Tensor, up: Tensor) -> Tensor:
    """activation(gate) * up; GPT-OSS has a function of both instead."""
    if kind == "clamped_swiglu":
        gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
        return gate * torch.sigmoid(1.702 * gate) * (up + 1)
    return ACTIVATIONS[kind](gate) * up


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def embedding(op: Embedding, count: int) -> None:
    table, ids = op.table, op.ids[:count]
    vocab_size = op.vocab_size or table.out_features
    check_range(ids, vocab_size, "a token id is outside the embedding")
    index = ids.long() - op.first_id
    is_here = (index >= 0) & (index < table.out_features)
    values = values_of(table, index.clamp(0, table.out_features - 1)) * op.scale
    result = values * is_here[:, None]
    op.out[:count] = op.out[:count] + result if op.accumulate else result


def norm(op: Norm, count: int) -> None:
    values = op.x[:count]
    if op.index is not None:
        check_range(op.index[:count], len(op.x), "a row index is outside the norm's input")
        values = op.x[op.index[:count].long()]
    if op.kind == "layer":
        result = functional.layer_norm(values, op.weight.shape, op.weight, op.bias, op.eps)
    else:
        result = rms_norm(values, op.weight, op.eps)
        result = result if op.bias is None else result + op.bias
    if op.accumulate:
        assert isinstance(op.out, Tensor)
        result = result + op.out[:count]
    put(result, op.out)


def gate(op: Gate, count: int) -> None:
    put(gated(op.kind, *op.x[:count].chunk(2, -1)), op.out)


def activate(op: Activate, count: int) -> None:
    put(ACTIVATIONS[op.kind](op.x[:count]), op.out)


def soft_cap(op: SoftCap, count: int) -> None:
    op.x[:count] = op.cap * torch.tanh(op.x[:count] / op.cap)


def quantize(op: Quantize, count: int) -> None:
    put(op.x[:count], op.out)


def permute(op: Permute, count: int) -> None:
    values = op.x[:count, op.index.clamp(min=0).long()]
    put(values.masked_fill(op.index < 0, 0.0), op.out)


def move_rows(op: MoveRows, count: int) -> None:
    index = op.index[:count].long()
    check_range(index - torch.arange(count), len(op.x), ROWS_DO_NOT_MOVE_UP)
    check_range(index, len(op.x), ROWS_DO_NOT_MOVE_UP)
    op.x[:count] = op.x[index]
