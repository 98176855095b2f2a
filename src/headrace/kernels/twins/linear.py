"""The twins of `kernels.ops.linear`."""

import torch
from torch.nn import functional

from headrace.kernels.ops import Linear, LinearBlocks, LinearGate
from headrace.kernels.twins.pointwise import gated
from headrace.kernels.twins.values import product, put, values_of


def linear(op: Linear, count: int) -> None:
    result = product(op.x, op.weight, count)
    if op.bias is not None:
        result += op.bias
    op.out[:count] = op.out[:count] + result if op.accumulate else result


def linear_blocks(op: LinearBlocks, count: int) -> None:
    depth = op.weights[0].in_features
    blocks = op.x[:count].unflatten(1, (len(op.weights), -1))
    parts = zip(blocks.unbind(1), op.weights, strict=True)
    products = [
        torch.cat((functional.linear(block[:, :depth], values_of(w)), block[:, depth:]), 1)
        for block, w in parts
    ]
    op.out[:count] = torch.cat(products, dim=1)


def linear_gate(op: LinearGate, count: int) -> None:
    gate, up = product(op.x, op.weight, count).chunk(2, -1)
    put(gated(op.kind, gate, up), op.out)
