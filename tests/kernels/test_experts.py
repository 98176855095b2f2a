"""Mixtures of experts: the choice, and the products of the chosen."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.kernels import ops
from headrace.kernels.base import Kernels
from headrace.kernels.native import NativeKernels
from headrace.kernels.routing import RoutingRule, choose
from headrace.kernels.tensors import LAYOUTS, ExpertWeights, GateKind, Routing, WeightKind
from headrace.kernels.twins import TorchKernels
from tests.kernels.samples import Dense, dense, grouped

HIDDEN = 64


@st.composite
def rules(draw: st.DrawFn) -> RoutingRule:
    num_groups, size = draw(st.sampled_from([(1, 5), (1, 16), (4, 4), (2, 3)]))
    groups = draw(st.integers(1, num_groups))
    return RoutingRule(
        num_experts=num_groups * size,
        experts_per_token=draw(st.integers(1, min(4, groups * size))),
        scores=draw(st.sampled_from(["softmax", "sigmoid"])),
        is_normalized=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
        num_groups=num_groups,
        groups_per_token=groups,
        experts_per_group=draw(st.integers(1, 2)),
    )


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rules(), st.booleans(), st.sampled_from(["none", "whole", "gated"]), st.integers(0, 99))
def test_route_is_the_plain_choice(
    native: Kernels, rule: RoutingRule, has_bias: bool, shared: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, rule.num_experts, generator=generator)
    bias = torch.randn(rule.num_experts, generator=generator) if has_bias else None
    gate = torch.randn(7, 1, generator=generator) if shared == "gated" else None
    shape = (7, rule.experts_per_token + (shared != "none"))
    routing = Routing(torch.zeros(shape, dtype=torch.int32), torch.zeros(shape))
    native.run(
        ops.Route(logits, routing, rule, choice_bias=bias, has_shared=shared != "none", shared=gate)
    )
    experts, weights = choose(logits, rule, bias)
    assert torch.equal(routing.experts[:, : rule.experts_per_token].long(), experts)
    torch.testing.assert_close(routing.weights[:, : rule.experts_per_token], weights)
    if shared != "none":
        assert (routing.experts[:, -1] == rule.num_experts).all()
        wanted = torch.ones(7) if gate is None else gate[:, 0].sigmoid()
        torch.testing.assert_close(routing.weights[:, -1], wanted)


def expert_weights(kind: WeightKind, sizes: list[int]) -> list[tuple[Dense, Dense]]:
    if kind != "int4":
        return [(dense(kind, 2 * size, HIDDEN), dense(kind, HIDDEN, size)) for size in sizes]
    return [
        (grouped("int4", 2 * size, HIDDEN, 32, scaling), grouped("int4", HIDDEN, size, 32, scaling))
        for size, scaling in zip(sizes, cycle(LAYOUTS["int4"]), strict=False)
    ]


def mixture(
    kernels: Kernels,
    x: torch.Tensor,
    routing: Routing,
    experts: Sequence[tuple[Dense, ...]],
    *,
    exact: bool = True,
    weighs_inputs: bool = False,
    kind: GateKind = "silu",
    biases: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Of gate and up together, or apart, and down. Added to rows of ones; the buffers are for more
    rows than there are."""
    packed = [
        ExpertWeights(tuple(part.pack(kernels) for part in gate_up), down.pack(kernels), *own)
        for (*gate_up, down), own in zip(experts, biases or [()] * len(experts), strict=True)
    ]
    capacity, count = len(x) + 3, len(x)

    def widened(part: torch.Tensor) -> torch.Tensor:
        return torch.cat((part, torch.zeros(3, part.shape[1], dtype=part.dtype)))

    out = torch.ones(capacity, HIDDEN)
    kernels.run(
        ops.Experts(
            widened(x),
            Routing(widened(routing.experts), widened(routing.weights)),
            packed,
            out,
            kernels.expert_buffers(capacity, routing.experts.shape[1], packed, exact=exact),
            kind=kind,
            weighs_inputs=weighs_inputs,
            accumulate=True,
            rows=torch.tensor([count], dtype=torch.int32),
        )
    )
    assert (out[count:] == 1).all()
    return out[:count]


def random_routing(rows: int, num_experts: int, chosen: int) -> Routing:
    experts = torch.stack([torch.randperm(num_experts)[:chosen].sort().values for _ in range(rows)])
    return Routing(experts.int(), torch.rand(rows, chosen))


@pytest.mark.parametrize("weighs_inputs", [False, True])
@pytest.mark.parametrize("kind", ["float32", "int4"])
@pytest.mark.parametrize("rows", [1, 2, 19, 70])
def test_experts_against_float64(
    kernels: Kernels, kind: WeightKind, rows: int, weighs_inputs: bool
) -> None:
    torch.manual_seed(rows)
    experts = expert_weights(kind, [32, 32, 32, 96])
    x, routing = torch.randn(rows, HIDDEN), random_routing(rows, 4, 3)
    wanted = torch.ones(rows, HIDDEN, dtype=torch.float64)
    for row in range(rows):
        for number, weight in zip(routing.experts[row], routing.weights[row].double(), strict=True):
            up, down = experts[number]
            inputs = x[row].double() * (weight if weighs_inputs else 1)
            gate, value = (up.values @ inputs).chunk(2)
            result = down.values @ (gate * gate.sigmoid() * value)
            wanted[row] += result * (1 if weighs_inputs else weight)
    got = mixture(kernels, x, routing, experts, weighs_inputs=weighs_inputs)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)


def halves(both: Dense) -> tuple[Dense, Dense]:
    """Gate and up as weights of their own."""
    size = len(both.values) // 2
    gate, up = (
        replace(
            both,
            parts=tuple(part[rows].contiguous() for part in both.parts),
            values=both.values[rows],
        )
        for rows in (slice(size), slice(size, None))
    )
    return gate, up


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("rows", [1, 19, 70])
def test_gate_and_up_apart_are_the_same_bits(kernels: Kernels, rows: int, exact: bool) -> None:
    torch.manual_seed(rows)
    together = [
        (grouped("int4", 2 * size, HIDDEN, 32, "minimum"), grouped("int4", HIDDEN, size, 32))
        for size in (32, 64, 96)
    ]
    biases = [(torch.randn(len(both.values)), torch.randn(HIDDEN)) for both, _ in together]
    apart = [(*halves(both), down) for both, down in together]
    x, routing = torch.randn(rows, HIDDEN), random_routing(rows, 3, 2)
    results = [
        mixture(kernels, x, routing, experts, exact=exact, biases=biases)
        for experts in (together, apart)
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("rows", [1, 19, 70])
@pytest.mark.parametrize(("gate_kind", "up_kind"), [("int4", "int8"), ("float16", "int2")])
def test_gate_and_up_may_have_layouts_of_their_own(
    kernels: Kernels, gate_kind: WeightKind, up_kind: WeightKind, rows: int
) -> None:
    torch.manual_seed(rows)

    def weight(kind: WeightKind) -> Dense:
        return dense(kind, 96, HIDDEN) if kind == "float16" else grouped(kind, 96, HIDDEN, 32)

    gate, up, down = weight(gate_kind), weight(up_kind), grouped("int4", HIDDEN, 96, 32)
    routing = Routing(torch.zeros(rows, 1, dtype=torch.int32), torch.ones(rows, 1))
    x = torch.randn(rows, HIDDEN)
    got = mixture(kernels, x, routing, [(gate, up, down)])
    gated, value = (x.double() @ part.values.T for part in (gate, up))
    wanted = (gated * gated.sigmoid() * value) @ down.values.T + 1
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 19])
@pytest.mark.parametrize("weighs_inputs", [False, True])
def test_biases_and_clamped_swiglu(kernels: Kernels, rows: int, weighs_inputs: bool) -> None:
    """As in GPT-OSS, with values beyond the limit of 7."""
    torch.manual_seed(rows)
    experts = expert_weights("float32", [32, 32, 64])
    biases = [(8 * torch.randn(len(up.values)), torch.randn(HIDDEN)) for up, _ in experts]
    x, routing = torch.randn(rows, HIDDEN), random_routing(rows, 3, 2)
    wanted = torch.ones(rows, HIDDEN, dtype=torch.float64)
    for row in range(rows):
        for number, weight in zip(routing.experts[row], routing.weights[row].double(), strict=True):
            (up, down), bias = experts[number], biases[number]
            inputs = x[row].double() * (weight if weighs_inputs else 1)
            gate, value = (up.values @ inputs + bias[0]).chunk(2)
            gate, value = gate.clamp(max=7), value.clamp(-7, 7)
            result = down.values @ (gate * (1.702 * gate).sigmoid() * (value + 1)) + bias[1]
            wanted[row] += result * (1 if weighs_inputs else weight)
    got = mixture(
        kernels, x, routing, experts, kind="clamped_swiglu", biases=biases,
        weighs_inputs=weighs_inputs,
    )  # fmt: skip
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["int4", "bfloat16"])
def test_rounded_inputs_are_those_of_the_twins(native: Kernels, kind: WeightKind) -> None:
    torch.manual_seed(0)
    experts = expert_weights(kind, [32] * 5)
    x, routing = torch.randn(40, HIDDEN), random_routing(40, 5, 2)
    got, wanted = (
        mixture(kernels, x, routing, experts, exact=False)
        for kernels in (native, TorchKernels("test"))
    )
    torch.testing.assert_close(got, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kind", ["int4", "bfloat16"])
@pytest.mark.parametrize("exact", [False, True])
def test_rows_do_not_depend_on_company_or_threads(
    native: NativeKernels, exact: bool, kind: WeightKind
) -> None:
    torch.manual_seed(0)
    experts = expert_weights(kind, [32] * 6 + [64])
    x, routing = torch.randn(150, HIDDEN), random_routing(150, 7, 3)

    def part(index: torch.Tensor) -> torch.Tensor:
        own = Routing(routing.experts[index], routing.weights[index])
        return mixture(native, x[index], own, experts, exact=exact)

    whole = part(torch.arange(150))
    for threads in (1, 2, 3):
        native.set_num_threads(threads)
        for first, last in [(0, 1), (3, 5), (5, 40), (1, 150)]:
            assert torch.equal(part(torch.arange(first, last)), whole[first:last])
    order = torch.randperm(150)
    assert torch.equal(part(order), whole[order])
