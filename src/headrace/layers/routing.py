"""Which experts of a mixture a token goes to, and with what weights. Knows no expert."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class RouterSpec:
    """How experts are chosen, by a score of each."""

    num_experts: int
    experts_per_token: int
    scores: Literal["softmax", "sigmoid"] = "softmax"
    """Of all experts' logits together, or of each by itself."""
    is_normalized: bool = False
    """The weights of a token's experts are divided by their sum."""
    scale: float = 1.0
    """Multiplies the weights."""
    has_bias: bool = False
    """Of the logits."""
    has_choice_bias: bool = False
    """Something is added to the scores that counts for the choice, not for the weights
    (DeepSeek-AI 2024)."""
    num_groups: int = 1
    groups_per_token: int = 1
    """Only the experts of so many groups can be chosen: those that are best by the sum of ..."""
    experts_per_group: int = 1
    """... the scores of so many of their experts."""
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


def route(x: Tensor, router: Router) -> tuple[Tensor, Tensor]:
    """x [T, hidden_size] to experts [T, K] int64 and weights [T, K] float32, where K is
    experts_per_token, or one more with a shared expert, which comes last."""
    spec, x = router.spec, x.float()
    logits = functional.linear(x, router.weight, router.bias)
    scores = logits.softmax(-1) if spec.scores == "softmax" else logits.sigmoid()
    experts = _ranking(logits, scores, router).topk(spec.experts_per_token).indices
    weights = scores.gather(1, experts)
    if spec.is_normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    weights = weights * spec.scale
    if not router.has_shared:
        return experts, weights
    gate = router.shared_gate
    shared = torch.ones_like(weights[:, :1]) if gate is None else functional.linear(x, gate)
    shared = shared if gate is None else shared.sigmoid()
    number = torch.full_like(experts[:, :1], spec.num_experts)
    return torch.cat((experts, number), 1), torch.cat((weights, shared), 1)


def _ranking(logits: Tensor, scores: Tensor, router: Router) -> Tensor:
    """What the choice goes by, [T, num_experts]."""
    spec = router.spec
    if router.choice_bias is not None:
        scores = scores + router.choice_bias
    elif spec.num_groups == 1:
        return logits  # their order is that of the scores, which may round to equal ones
    if spec.num_groups == 1:
        return scores
    groups = scores.unflatten(1, (spec.num_groups, -1))
    ranks = groups.topk(spec.experts_per_group).values.sum(-1)
    best = ranks.topk(spec.groups_per_token).indices
    is_closed = torch.ones_like(ranks, dtype=torch.bool).scatter_(1, best, False)
    return groups.masked_fill(is_closed.unsqueeze(-1), float("-inf")).flatten(1)
