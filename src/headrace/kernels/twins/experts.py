"""The twins of `kernels.ops.experts`."""

import torch
from torch.nn import functional

from headrace.kernels.ops import Experts, Route
from headrace.kernels.routing import choose
from headrace.kernels.tensors import SplitActivation, UniformActivation
from headrace.kernels.twins.pointwise import gated
from headrace.kernels.twins.values import first_rows, rounded, rounded_values


def route(op: Route, count: int) -> None:
    width, routing = op.rule.experts_per_token, op.routing
    experts, weights = choose(op.logits[:count], op.rule, op.choice_bias)
    routing.experts[:count, :width] = experts
    routing.weights[:count, :width] = weights
    if op.has_shared:
        routing.experts[:count, width] = op.rule.num_experts
        routing.weights[:count, width] = 1 if op.shared is None else op.shared[:count, 0].sigmoid()


def experts(op: Experts, count: int) -> None:
    inputs, inner = op.buffers.inputs, op.buffers.inner
    if isinstance(inputs, SplitActivation) and isinstance(inner, SplitActivation):
        split = first_rows(inputs, count)
        _mix(op, slice(split), inputs.first, inner.first)
        _mix(op, slice(split, count), inputs.rest, inner.rest)
    else:
        assert not isinstance(inputs, SplitActivation)
        assert not isinstance(inner, SplitActivation)
        _mix(op, slice(count), inputs, inner)


def _mix(op: Experts, part: slice, like: UniformActivation, inner_like: UniformActivation) -> None:
    """Rows of `part`, whose inputs and inner values are held as these activations are."""
    total = torch.zeros_like(op.out[part])
    for number, expert in enumerate(op.experts):
        index, place = torch.where(op.routing.experts[part] == number)
        weights, values = op.routing.weights[part][index, place, None], op.x[part][index]
        inputs = rounded(values * weights if op.weighs_inputs else values, like)
        both = torch.cat([rounded_values(weight, like) for weight in expert.gate_up])
        gate, up = functional.linear(inputs, both, expert.gate_up_bias).chunk(2, -1)
        inner = rounded(gated(op.kind, gate, up), inner_like)
        weight = rounded_values(expert.down, inner_like)
        result = functional.linear(inner, weight, expert.down_bias)
        total.index_add_(0, index, result if op.weighs_inputs else result * weights)
    op.out[part] = op.out[part] + total if op.accumulate else total
