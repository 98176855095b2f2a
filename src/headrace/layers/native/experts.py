"""Mixtures of experts with the CPU kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.errors import StartupError
from headrace.kernels import ops
from headrace.kernels.tensors import ExpertBuffers, ExpertWeights, Routing, SplitActivation
from headrace.layers.native.buffers import Buffers
from headrace.layers.native.unsupported import GATES
from headrace.layers.operations import Expert
from headrace.layers.routing import Router
from headrace.quantization.packed import PackedLinear, pack_floats


class Mixtures:
    """What `Operations.experts` does, in a pass that `buffers` belongs to."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._kernels = buffers.kernels
        self._inner: dict[tuple[object, ...], ExpertBuffers] = {}

    def run(
        self, x: Tensor, router: Router, experts: Sequence[Expert], residual: Tensor | None
    ) -> Tensor:
        """See `Operations.experts`."""
        out = self._buffers.floats("experts", x.shape[1]) if residual is None else residual
        weights, is_exact = expert_weights(experts)
        self._kernels.run(
            ops.Experts(
                x,
                self._route(x, router),
                weights,
                out,
                self._inner_buffers(router.experts_per_token, weights, is_exact=is_exact),
                kind=GATES[experts[0].activation],
                weighs_inputs=router.spec.weighs_inputs,
                accumulate=residual is not None,
                rows=self._buffers.counts.tokens,
            )
        )
        return out

    @property
    def distinguish_prompts(self) -> bool:
        """See `Buffers`."""
        return any(isinstance(x.inputs, SplitActivation) for x in self._inner.values())

    def _route(self, x: Tensor, router: Router) -> Routing:
        shape = (self._buffers.counts.capacity, router.experts_per_token)
        routing = Routing(torch.zeros(shape, dtype=torch.int32), torch.zeros(shape))
        self._kernels.run(
            ops.Route(
                self._product(x, router.weight, router.bias),
                routing,
                router.spec,
                choice_bias=router.choice_bias,
                has_shared=router.has_shared,
                shared=None if router.shared_gate is None else self._product(x, router.shared_gate),
                rows=self._buffers.counts.tokens,
            )
        )
        return routing

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [T, H] times a small float32 weight that no scheme has packed."""
        packed = pack_floats(self._kernels, [weight], torch.float32, exact=True)
        out = self._buffers.floats("router", packed.out_features)
        rows = self._buffers.counts.tokens
        self._kernels.run(ops.Linear(x, packed.packed, out, bias=bias, rows=rows))
        return out

    def _inner_buffers(
        self, experts_per_token: int, experts: Sequence[ExpertWeights], *, is_exact: bool
    ) -> ExpertBuffers:
        """Layers whose mixtures have the same sizes and read the same dtypes share them."""
        dtype = self._kernels.input_dtype
        shapes = tuple(
            (weight.in_features, dtype(weight))
            for expert in experts
            for weight in (*expert.gate_up, expert.down)
        )
        counts = self._buffers.counts
        key = (counts.key, experts_per_token, shapes, is_exact)
        if key not in self._inner:
            self._inner[key] = self._kernels.expert_buffers(
                counts.capacity,
                experts_per_token,
                experts,
                exact=is_exact,
                split=self._buffers.split,
            )
        return self._inner[key]


def expert_weights(experts: Sequence[Expert]) -> tuple[list[ExpertWeights], bool]:
    """The packed weights, and whether they read float32 only. Raises StartupError where they
    read their inputs in an order of their own."""
    packed, biases = [], []
    for expert in experts:
        assert isinstance(expert.gate_up, PackedLinear) and isinstance(expert.down, PackedLinear)
        packed.append((expert.gate_up, expert.down))
        biases.append((expert.gate_up_bias, expert.down_bias))
    if any(part.permutation is not None for parts in packed for part in parts):
        raise StartupError(
            "experts quantized in another order of their inputs (GPTQ's act-order, or groups that "
            "are no multiple of 32) do not run on the CPU kernels; use --kernels torch"
        )
    weights = [
        ExpertWeights(tuple(gate_up.parts), down.packed, *own)
        for (gate_up, down), own in zip(packed, biases, strict=True)
    ]
    return weights, any(linear.is_exact for linears in packed for linear in linears)
