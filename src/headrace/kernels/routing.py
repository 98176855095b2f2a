"""How a token's experts are chosen by their logits: the rule, and the choice in plain torch."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scores = Literal["softmax", "sigmoid"]
SCORES: tuple[Scores, ...] = ("softmax", "sigmoid")


@dataclass(frozen=True, kw_only=True)
class RoutingRule:
    """Which experts have the best scores, and how much each of them weighs."""

    num_experts: int
    experts_per_token: int
    scores: Scores = "softmax"
    """Of all experts' logits together, or of each by itself."""
    is_normalized: bool = False
    """The weights of a token's experts are divided by their sum."""
    scale: float = 1.0
    """Multiplies the weights."""
    num_groups: int = 1
    groups_per_token: int = 1
    """Only the experts of so many groups can be chosen: those that are best by the sum of ..."""
    experts_per_group: int = 1
    """... the scores of so many of their experts."""


def choose(logits: Tensor, rule: RoutingRule, choice_bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """logits [T, num_experts] to experts [T, experts_per_token] int64, in the order of their
    numbers, and weights [T, experts_per_token].

    choice_bias [num_experts] is added to the scores for the choice, not for the weights
    (DeepSeek-AI 2024).
    """
    scores = logits.softmax(-1) if rule.scores == "softmax" else logits.sigmoid()
    ranking = _ranking(logits, scores, rule, choice_bias)
    experts = ranking.topk(rule.experts_per_token).indices.sort().values
    weights = scores.gather(1, experts)
    if rule.is_normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    return experts, weights * rule.scale


def _ranking(
    logits: Tensor, scores: Tensor, rule: RoutingRule, choice_bias: Tensor | None
) -> Tensor:
    """What the choice goes by, [T, num_experts]."""
    if choice_bias is not None:
        scores = scores + choice_bias
    elif rule.num_groups == 1:
        return logits  # their order is that of the scores, which may round to equal ones
    if rule.num_groups == 1:
        return scores
    groups = scores.unflatten(1, (rule.num_groups, -1))
    ranks = groups.topk(rule.experts_per_group).values.sum(-1)
    best = ranks.topk(rule.groups_per_token).indices
    is_closed = torch.ones_like(ranks, dtype=torch.bool).scatter_(1, best, False)
    return groups.masked_fill(is_closed.unsqueeze(-1), float("-inf")).flatten(1)
