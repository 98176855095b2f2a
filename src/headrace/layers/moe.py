"""A mixture of experts (Shazeer et al. 2017): each token goes through a few of many MLPs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.layers.mlp import MLP, MLPSpec
from headrace.layers.operations import Activation, Expert
from headrace.layers.parameters import ParameterLoader
from headrace.layers.routing import Router, RouterSpec


@dataclass(frozen=True, kw_only=True)
class MoESpec:
    """The sizes of one mixture."""

    router: RouterSpec
    expert: MLPSpec
    shared: MLPSpec | None = None
    """Of an expert that every token goes to."""
    has_shared_gate: bool = False
    """The shared expert's weight is the sigmoid of a product of its own (Qwen2-MoE), else 1."""


class MoE:
    """[T, hidden_size] to [T, hidden_size]."""

    input_weight = None
    """Router and experts read the layer's input as it is."""

    def __init__(self, load: ParameterLoader, prefix: str, hidden_size: int, spec: MoESpec) -> None:
        self.operations = load.operations
        self.router = _load_router(load, prefix, hidden_size, spec)
        mlps = [
            MLP(load, f"{prefix}.experts.{number}", hidden_size, spec.expert)
            for number in range(spec.router.num_experts)
        ]
        if spec.shared is not None:
            mlps.append(MLP(load, f"{prefix}.shared_expert", hidden_size, spec.shared))
        self.experts = [_expert(mlp) for mlp in mlps]
        self.is_partial = mlps[0].down.is_partial
        """Other ranks have the rest of each expert."""

    def __call__(self, x: Activation, residual: Tensor | None) -> Tensor:
        """Added to the residual stream if one is given, in its memory."""
        if not self.is_partial:
            return self.operations.experts(x, self.router, self.experts, residual)
        partial = self.operations.experts(x, self.router, self.experts, None)
        return self.operations.all_reduce(partial, residual)


def _expert(mlp: MLP) -> Expert:
    up, down = mlp.up, mlp.down
    return Expert(up.weight, up.bias, mlp.spec.activation, down.weight, down.bias)


def _load_router(load: ParameterLoader, prefix: str, hidden_size: int, spec: MoESpec) -> Router:
    router, count = spec.router, spec.router.num_experts

    def tensor(name: str, *shape: int) -> Tensor:
        return load.tensor(f"{prefix}.{name}", shape, torch.float32)

    return Router(
        router,
        tensor("router.weight", count, hidden_size),
        tensor("router.bias", count) if router.has_bias else None,
        tensor("router.e_score_correction_bias", count) if router.has_choice_bias else None,
        spec.shared is not None,
        tensor("shared_expert_gate.weight", 1, hidden_size) if spec.has_shared_gate else None,
    )
