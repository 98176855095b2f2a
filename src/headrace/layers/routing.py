"""Which experts of a mixture a token goes to, and with what weights. Knows no expert."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels.routing import RoutingRule, choose


@dataclass(frozen=True, kw_only=True)
class RouterSpec(RoutingRule):
    """A router: its rule, and which parameters it has."""

    has_bias: bool = False
    """Of the logits."""
    has_choice_bias: bool = False
    """Of what the choice goes by."""
    weighs_inputs: bool = False
    """An expert's weight multiplies what it reads (Llama 4), not what it gives."""


@dataclass(frozen=True, slots=True)
class Router:
    """A router's parameters, float32."""

    spec: RouterSpec
    weight: Tensor
    """[num_experts, hidden_size]."""
    bias: Tensor | None = None
    """[num_experts]."""
    choice_bias: Tensor | None = None
    """[num_experts]."""
    has_shared: bool = False
    """Every token also goes to one more expert, numbered num_experts."""
    shared_gate: Tensor | None = None
    """[1, hidden_size]: the shared expert's weight is the sigmoid of this product; None: 1."""

    @property
    def experts_per_token(self) -> int:
        """The shared one included."""
        return self.spec.experts_per_token + self.has_shared


def route(x: Tensor, router: Router) -> tuple[Tensor, Tensor]:
    """x [T, hidden_size] to experts [T, K] int64 and weights [T, K] float32, the shared expert
    last."""
    x = x.float()
    logits = functional.linear(x, router.weight, router.bias)
    experts, weights = choose(logits, router.spec, router.choice_bias)
    if not router.has_shared:
        return experts, weights
    shared = torch.ones_like(weights[:, :1])
    if router.shared_gate is not None:
        shared = functional.linear(x, router.shared_gate).sigmoid()
    number = torch.full_like(experts[:, :1], router.spec.num_experts)
    return torch.cat((experts, number), 1), torch.cat((weights, shared), 1)
