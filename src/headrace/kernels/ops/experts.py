"""Mixtures of experts: the choice of a row's experts, and the products of the chosen."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from headrace.kernels.ops.linear import check_input, check_product
from headrace.kernels.ops.op import Abilities, Op, check_optional
from headrace.kernels.routing import RoutingRule
from headrace.kernels.tensors import (
    GATE_KINDS,
    GROUP_SIZE,
    ExpertBuffers,
    ExpertWeights,
    GateKind,
    Routing,
    SplitActivation,
    check,
    check_activation,
    check_choice,
    check_equal,
    check_multiple,
)


@dataclass(frozen=True, slots=True)
class Route(Op):
    """routing = what `kernels.routing.choose` gives of logits [T, num_experts].

    choice_bias [num_experts]. With `has_shared` one more expert comes last, weighing 1 or
    sigmoid(shared[r]); shared [T, 1].
    """

    logits: Tensor
    routing: Routing
    rule: RoutingRule
    _: KW_ONLY
    choice_bias: Tensor | None = None
    has_shared: bool = False
    shared: Tensor | None = None

    def check(self, kernels: Abilities) -> int:
        num_experts = self.rule.num_experts
        check(self.logits, "logits", torch.float32, None, num_experts)
        _check_rule(self.rule)
        num_rows = len(self.logits)
        shape = (num_rows, self.rule.experts_per_token + self.has_shared)
        check(self.routing.experts, "experts", torch.int32, *shape)
        check(self.routing.weights, "weights", torch.float32, *shape)
        check_optional(self.choice_bias, "choice_bias", torch.float32, num_experts)
        check_optional(self.shared, "shared", torch.float32, num_rows, 1)
        return num_rows


@dataclass(frozen=True, slots=True)
class Experts(Op):
    """out[r] = the results of x[r]'s experts, weighted, summed in the order of their numbers,
    or with `accumulate` added to out.

    x and out [T, H]. `buffers` are those of `Kernels.expert_buffers` for T rows. `weighs_inputs`:
    the weights multiply what the experts read.
    """

    x: Tensor
    routing: Routing
    experts: Sequence[ExpertWeights]
    out: Tensor
    buffers: ExpertBuffers
    _: KW_ONLY
    kind: GateKind
    weighs_inputs: bool = False
    accumulate: bool = False

    def check(self, kernels: Abilities) -> int:
        check_choice(self.kind, "gate kind", GATE_KINDS)
        num_rows, hidden = self.out.shape
        check(self.out, "out", torch.float32, num_rows, None)
        check(self.x, "x", torch.float32, num_rows, hidden)
        check(self.routing.experts, "experts", torch.int32, num_rows, None)
        check(self.routing.weights, "weights", torch.float32, *self.routing.experts.shape)
        for expert in self.experts:
            _check_expert(expert, hidden)
            _check_reading(expert, self.buffers, kernels)
        _check_room(self.buffers, len(self.experts), hidden, self.routing.experts.numel())
        return num_rows


def _check_rule(rule: RoutingRule) -> None:
    if not 1 <= rule.experts_per_token <= rule.num_experts:
        raise ValueError("experts_per_token: outside 1 to num_experts")
    check_multiple("num_experts", rule.num_experts, rule.num_groups)
    if not (
        1 <= rule.groups_per_token <= rule.num_groups
        and 1 <= rule.experts_per_group <= rule.num_experts // rule.num_groups
    ):
        raise ValueError("groups_per_token or experts_per_group: more than there are")


def _check_expert(expert: ExpertWeights, hidden: int) -> None:
    gate_up, down = expert.gate_up, expert.down
    inner = down.in_features
    check_choice(len(gate_up), "weights of gate and up", (1, 2))
    for weight in gate_up:
        check_equal("gate and up: inputs", weight.in_features, hidden)
        check_equal("gate and up", weight.out_features, 2 * inner // len(gate_up))
    check_equal("down: outputs", down.out_features, hidden)
    check_multiple("inner features", inner, GROUP_SIZE)
    for bias, size in ((expert.gate_up_bias, 2 * inner), (expert.down_bias, hidden)):
        check_optional(bias, "bias of an expert", torch.float32, size)


def _check_reading(expert: ExpertWeights, buffers: ExpertBuffers, kernels: Abilities) -> None:
    for weight in expert.gate_up:
        check_product(buffers.inputs, weight, kernels)
    check_input(buffers.inner, expert.down, kernels)
    if expert.down.in_features > check_activation(buffers.inner, "inner")[1]:
        raise ValueError("buffers: made for narrower experts")


def _check_room(buffers: ExpertBuffers, num_experts: int, hidden: int, places: int) -> None:
    slots, _ = check_activation(buffers.inner, "inner")
    check(buffers.outputs, "outputs", torch.float32, slots, hidden)
    is_split = isinstance(buffers.inputs, SplitActivation)
    check_equal("inner: parts", isinstance(buffers.inner, SplitActivation), is_split)
    num_shares = num_experts * (2 if is_split else 1)
    check(buffers.plan, "plan", torch.int32, 2 * num_shares + 1 + places + slots)
